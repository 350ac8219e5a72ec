"""Bounds that every model must respect, far above any real one, so that damaged numbers are caught at once."""

from __future__ import annotations

from backends.errors import ModelError
from backends.models.spec import ModelSpec

MAX_HIDDEN = 1 << 20
MAX_LAYERS = 1 << 10
MAX_HEADS = 1 << 12
MAX_HEAD_DIM = 1 << 12
MAX_FFN = 1 << 22
MAX_EXPERTS = 1 << 10
MAX_VOCAB = (1 << 24) - 1
MAX_CONTEXT = 1 << 26


def default_head_dim(where: str, *, hidden_size: int, num_heads: int) -> int:
    """Hidden size divided by the number of heads, which must come out even."""
    if hidden_size % num_heads:
        raise ModelError(f"{where}: hidden size {hidden_size} is not divisible by {num_heads} attention heads")
    return hidden_size // num_heads


def check_consistent(spec: ModelSpec, where: str) -> ModelSpec:
    """Return `spec` unchanged. Raises `ModelError` where its numbers contradict each other."""
    if spec.num_heads % spec.num_kv_heads:
        raise ModelError(
            f"{where}: {spec.num_heads} attention heads are not divisible by {spec.num_kv_heads} key/value heads"
        )
    if spec.head_dim % 2:
        raise ModelError(f"{where}: head size {spec.head_dim} is odd; rotary embeddings need pairs")
    return spec
