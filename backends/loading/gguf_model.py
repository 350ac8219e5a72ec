"""A GGUF file as a model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from backends.api import LoadableModel
from backends.errors import ModelError
from backends.loading.canonical import canonical_tensors
from backends.models.families import spec_from_metadata
from backends.models.families.gguf import ROPE_FACTORS, SHORT_ROPE_FACTORS
from backends.models.families.limits import MAX_HEAD_DIM
from backends.models.spec import ModelSpec
from backends.weights.decode import decode
from backends.weights.gguf import GgufFile, narrowed, read_gguf
from backends.weights.rotary import HalfSplitSource


def open_gguf(path: Path) -> LoadableModel:
    """Open and check a GGUF file; weights stay as they are stored."""
    file = read_gguf(path)
    model = spec_from_metadata(
        file.metadata,
        tensor_names=file.tensors.keys(),
        rope_factors=_rope_factors(file, ROPE_FACTORS),
        short_rope_factors=_rope_factors(file, SHORT_ROPE_FACTORS),
        where=str(path),
    )
    tensors = narrowed(canonical_tensors(file.tensors, model.spec, model.naming, where=str(path)))
    if not model.interleaved_rotary:
        return LoadableModel(spec=model.spec, tensors=tensors)
    return LoadableModel(
        spec=model.spec, tensors=HalfSplitSource(tensors, num_heads=_heads_by_tensor(model.spec, tensors.keys()))
    )


def _rope_factors(file: GgufFile, name: str) -> list[float] | None:
    tensor = file.tensors.get(name)
    if tensor is None:
        return None
    if len(tensor.shape) != 1 or tensor.shape[0] > MAX_HEAD_DIM:
        raise ModelError(f"{file.path}: tensor {name!r} has shape {list(tensor.shape)}; expected [head_dim / 2]")
    values: list[float] = decode(tensor).reshape(-1).tolist()
    return values


def _heads_by_tensor(spec: ModelSpec, names: Collection[str]) -> dict[str, int]:
    """The tensors whose rows belong to rotary heads → their number of heads."""
    heads = {"q": spec.num_heads, "q.bias": spec.num_heads, "k": spec.num_kv_heads, "k.bias": spec.num_kv_heads}
    candidates = {f"layers.{i}.{name}": count for i in range(spec.num_layers) for name, count in heads.items()}
    return {name: count for name, count in candidates.items() if name in names}
