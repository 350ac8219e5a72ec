"""Models that this runner supports, and its MLP activations. Checked before any weight is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import gelu, silu

from backends.errors import UnsupportedModel
from backends.models.spec import ModelSpec

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"silu": silu, "gelu_tanh": partial(gelu, approximate="tanh")}
)


_SCALINGS = ("linear", "llama3", "factors")


def check_supported(spec: ModelSpec) -> None:
    """Raise `UnsupportedModel` for a model that would otherwise fail later, or give wrong outputs."""
    if spec.activation not in ACTIVATIONS:
        raise UnsupportedModel(f"activation {spec.activation!r} is not supported; {_choice(ACTIVATIONS)}")
    if spec.rope_scaling is not None and spec.rope_scaling.kind not in _SCALINGS:
        raise UnsupportedModel(f"rotary scaling {spec.rope_scaling.kind!r} is not supported; {_choice(_SCALINGS)}")
    if spec.windows and (len(spec.windows) != spec.num_layers or min(spec.windows) < 0):
        raise UnsupportedModel(f"attention windows {spec.windows} do not fit {spec.num_layers} layers")
    if spec.num_heads % spec.num_kv_heads or spec.head_dim % 2:
        raise UnsupportedModel(
            f"{spec.num_heads} heads cannot share {spec.num_kv_heads} key heads, or {spec.head_dim} features are odd"
        )
    if spec.num_experts and not 1 <= spec.experts_per_token <= spec.num_experts:
        raise UnsupportedModel(f"a token cannot have {spec.experts_per_token} of {spec.num_experts} experts")


def _choice(known: Iterable[str]) -> str:
    return f"supported are {', '.join(known)}"
