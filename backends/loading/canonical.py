"""Stored tensors under their canonical names, checked against what the spec implies."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import numpy as np

from backends.errors import ModelError, UnsupportedModel
from backends.models.families import Naming
from backends.models.shapes import Shapes, expected_shapes
from backends.models.spec import ModelSpec
from backends.weights.tensor import StoredTensor, decode


def plus_one(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The same tensors with one added to every norm, which becomes F32."""
    return {name: _shifted(tensor) if name.endswith("norm") else tensor for name, tensor in tensors.items()}


def _shifted(tensor: StoredTensor) -> StoredTensor:
    values = (decode(tensor) + np.float32(1)).astype(np.float32)
    return StoredTensor(tensor.name, "F32", tensor.shape, values.view(np.uint8).reshape(1, -1))


_VECTOR_FORMATS = ("F32", "F16", "BF16")


def canonical_tensors(
    stored: Mapping[str, StoredTensor], spec: ModelSpec, naming: Naming, *, where: str, ignored: Collection[str] = ()
) -> dict[str, StoredTensor]:
    """Exactly the tensors that `spec` implies, renamed.

    Raises `ModelError` for a missing tensor, a wrong shape, or a vector that is quantized or not finite, and
    `UnsupportedModel` for a tensor without a meaning, unless it is `ignored` or known to be harmless.
    """
    shapes = expected_shapes(spec)
    tensors: dict[str, StoredTensor] = {}
    parts = by_stored_name(shapes, naming)
    for stored_name, wanted in parts.items():
        tensor = stored.get(stored_name)
        if tensor is None:
            expected = stacked_shape(list(wanted.values()))
            raise ModelError(f"{where}: tensor {stored_name!r} is missing; expected shape {list(expected)}")
        _check(tensor, list(wanted.values()), where)
        tensors |= _cut(tensor, wanted)
    _refuse_unknown(stored, parts.keys(), naming, where=where, ignored=ignored)
    return {name: tensors[name] for name in shapes}


def by_stored_name(shapes: Shapes, naming: Naming) -> dict[str, Shapes]:
    """Stored name → names and shapes of the canonical tensors stacked in it."""
    parts: dict[str, Shapes] = {}
    for name, shape in shapes.items():
        parts.setdefault(naming.stored_name(name), {})[name] = shape
    return parts


def stacked_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of the stacked tensors."""
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _cut(tensor: StoredTensor, shapes: Shapes) -> dict[str, StoredTensor]:
    if len(shapes) == 1:
        [(name, shape)] = shapes.items()
        return {name: msgspec.structs.replace(tensor, name=name, shape=shape)}
    cut, start = {}, 0
    for name, shape in shapes.items():
        cut[name] = StoredTensor(name, tensor.format, shape, tensor.data[start : start + shape[0]])
        start += shape[0]
    return cut


def _check(tensor: StoredTensor, shapes: list[tuple[int, ...]], where: str) -> None:
    """Several tensors of one shape, such as experts, may be stacked along an axis of their own."""
    shape = stacked_shape(shapes)
    if tensor.shape != shape and (len(shapes) == 1 or tensor.shape != (len(shapes), *shapes[0])):
        raise ModelError(
            f"{where}: tensor {tensor.name!r} has shape {list(tensor.shape)}; the configuration implies {list(shape)}"
        )
    if len(tensor.shape) > 1:
        return
    if tensor.format not in _VECTOR_FORMATS:
        raise UnsupportedModel(
            f"{where}: vector {tensor.name!r} is stored as {tensor.format}; expected {', '.join(_VECTOR_FORMATS)}"
        )
    # Matrices are far too large to scan at every start; a damaged norm would make every output nonsense.
    if not np.isfinite(decode(tensor)).all():
        raise ModelError(f"{where}: tensor {tensor.name!r} holds values that are not finite; the file is damaged")


def _refuse_unknown(
    stored: Mapping[str, StoredTensor], used: Collection[str], naming: Naming, *, where: str, ignored: Collection[str]
) -> None:
    for name in stored:
        if name in used or name in ignored or name.endswith(naming.harmless_suffixes):
            continue
        raise UnsupportedModel(f"{where}: tensor {name!r} has no place in this architecture; it would be left out")
