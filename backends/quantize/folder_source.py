"""A Hugging Face folder as the source: canonical tensors become those of a GGUF file, as llama.cpp's converter makes
them (conversion/ in its tree): names, stacked experts, llama's interleaved query and key rows, Gemma's norms plus one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from backends.api import LoadableModel
from backends.loading.canonical import by_stored_name, stacked_shape
from backends.loading.open import open_folder
from backends.models.families.gguf import SHORT_ROPE_FACTORS
from backends.models.families.table import GgufFamily
from backends.models.shapes import expected_shapes
from backends.models.spec import ModelSpec
from backends.quantize.architecture import LONG_ROPE_FACTORS, architecture_of, model_metadata, rope_factors
from backends.quantize.readback import spec_faults
from backends.quantize.source import Order, QuantizeSource, SourceTensor, TensorPart
from backends.quantize.vocabulary import vocabulary_of_folder
from backends.weights.files import read_json
from backends.weights.formats import FORMATS
from backends.weights.gguf.writer import DEFAULT_ALIGNMENT
from backends.weights.tensor import StoredTensor

_VECTOR_FORMAT = "F32"


def open_folder_source(folder: Path) -> QuantizeSource:
    """Open and check a folder. Raises `ModelError`, and `UnsupportedModel` for what GGUF has no words for."""
    model = open_folder(folder)
    spec = model.spec
    architecture, family = architecture_of(spec)
    config = read_json(folder / "config.json", dict[str, Any])
    vocabulary = vocabulary_of_folder(folder, spec)
    factors = rope_factors(spec, config, where=str(folder))
    tensors = tuple(_factor_tensor(name, values) for name, values in factors.items())
    tensors += tuple(_tensors(model, family))
    metadata = model_metadata(spec, config, architecture=architecture, family=family, name=folder.resolve().name)
    metadata |= vocabulary.metadata
    faults = spec_faults(
        spec,
        metadata,
        tensor_names=[tensor.name for tensor in tensors],
        rope_factors=factors.get("rope_freqs.weight"),
        short_rope_factors=factors.get(SHORT_ROPE_FACTORS),
        where=str(folder),
    )
    notes = vocabulary.notes
    if LONG_ROPE_FACTORS in factors:
        notes += ("LongRoPE's long factors are written too, for engines that use them",)
    return QuantizeSource(
        path=folder,
        spec=spec,
        metadata=metadata,
        tensors=tensors,
        alignment=DEFAULT_ALIGNMENT,
        notes=notes,
        faults=vocabulary.faults + faults,
    )


def _factor_tensor(name: str, values: tuple[float, ...]) -> SourceTensor:
    data = FORMATS["F32"].encode(np.array([values], np.float32))
    stored = StoredTensor(name, "F32", (len(values),), data)
    return SourceTensor(name=name, shape=stored.shape, parts=(TensorPart(stored),), kept_format="F32")


def _tensors(model: LoadableModel, family: GgufFamily) -> list[SourceTensor]:
    tensors = []
    for stored_name, shapes in by_stored_name(expected_shapes(model.spec), family.naming).items():
        first = next(iter(shapes))
        shape = stacked_shape(list(shapes.values()))
        if ".experts." in first:
            shape = (len(shapes), *shapes[first])
        parts = tuple(_part(model.tensors[name], model.spec, family) for name in shapes)
        tensors.append(SourceTensor(name=stored_name, shape=shape, parts=parts, kept_format=_VECTOR_FORMAT))
    return tensors


def _part(tensor: StoredTensor, spec: ModelSpec, family: GgufFamily) -> TensorPart:
    heads = _rotary_heads(tensor.name, spec) if family.interleaved_rotary else 0
    if not heads:
        return TensorPart(tensor)
    order = interleaved_order(tensor.shape[0], num_heads=heads)
    if len(tensor.shape) > 1:
        return TensorPart(tensor, order)
    elements = tensor.data.reshape(tensor.shape[0], -1)
    return TensorPart(msgspec.structs.replace(tensor, data=elements[order].reshape(1, -1)))


def _rotary_heads(name: str, spec: ModelSpec) -> int:
    """Number of rotary heads whose rows a canonical tensor holds; 0 for others."""
    kind = name.removesuffix(".bias").rpartition(".")[2]
    return {"q": spec.num_heads, "k": spec.num_kv_heads}.get(kind, 0)


def interleaved_order(size: int, *, num_heads: int) -> Order:
    """Row numbers in half-split order of the rows in interleaved order: the inverse of `backends.weights.rotary`."""
    return np.arange(size).reshape(num_heads, 2, -1).swapaxes(1, 2).reshape(-1)
