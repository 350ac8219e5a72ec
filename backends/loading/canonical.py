"""Stored tensors under their canonical names, checked against what the spec implies."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import numpy as np

from backends.errors import ModelError, UnsupportedModel
from backends.models.families import Naming
from backends.models.shapes import expected_shapes
from backends.models.spec import ModelSpec
from backends.weights.decode import decode
from backends.weights.tensor import StoredTensor

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
    for name, shape in shapes.items():
        stored_name = naming.stored_name(name)
        tensor = stored.get(stored_name)
        if tensor is None:
            raise ModelError(f"{where}: tensor {stored_name!r} is missing; expected shape {list(shape)}")
        _check(tensor, shape, where)
        tensors[name] = msgspec.structs.replace(tensor, name=name)
    _refuse_unknown(stored, {naming.stored_name(name) for name in shapes}, naming, where=where, ignored=ignored)
    return tensors


def _check(tensor: StoredTensor, shape: tuple[int, ...], where: str) -> None:
    if tensor.shape != shape:
        raise ModelError(
            f"{where}: tensor {tensor.name!r} has shape {list(tensor.shape)}; the configuration implies {list(shape)}"
        )
    if len(shape) > 1:
        return
    if tensor.format not in _VECTOR_FORMATS:
        raise UnsupportedModel(
            f"{where}: vector {tensor.name!r} is stored as {tensor.format}; expected {', '.join(_VECTOR_FORMATS)}"
        )
    # Matrices are far too large to scan at every start; a damaged norm would turn every answer into nonsense.
    if not np.isfinite(decode(tensor)).all():
        raise ModelError(f"{where}: tensor {tensor.name!r} holds values that are not finite; the file is damaged")


def _refuse_unknown(
    stored: Mapping[str, StoredTensor], used: set[str], naming: Naming, *, where: str, ignored: Collection[str]
) -> None:
    for name in stored:
        if name in used or name in ignored or name.endswith(naming.harmless_suffixes):
            continue
        raise UnsupportedModel(f"{where}: tensor {name!r} has no place in this architecture; it would be left out")
