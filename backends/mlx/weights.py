"""A model's weights, merged where their formats agree."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from backends.api import LoadableModel
from backends.errors import UnsupportedModel
from backends.mlx.matrix import FORMATS, MlxMatrix, make_matrix
from backends.models.shapes import Inventory
from backends.models.spec import ModelSpec
from backends.weights.tensor import TensorSource, decode


class MlxLinear:
    """Matrices side by side, one where their formats agree, and the bias if the model has one."""

    def __init__(self, parts: list[MlxMatrix], bias: mx.array | None) -> None:
        self.parts = parts
        self._bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        products = [part.product(x) for part in self.parts]
        y = products[0] if len(products) == 1 else mx.concatenate(products, axis=1)
        return y if self._bias is None else y + self._bias


class MlxWeights:
    """Everything that `MlxOps` looks up by canonical name. Raises `UnsupportedModel` for an undeclared format."""

    def __init__(self, model: LoadableModel, *, exact: bool, progress: Callable[[float], None]) -> None:
        self._tensors: TensorSource = model.tensors
        self._exact = exact
        inventory = Inventory(model.spec)
        self.linears: dict[tuple[str, ...], MlxLinear] = {}
        for done, names in enumerate(inventory.linears, start=1):
            self.linears[names] = self._linear(names)
            progress(done / len(inventory.linears))
        tied = self.linears.get(("embed",))
        self.embedding = tied.parts[0] if tied else self._linear(("embed",)).parts[0]
        self.vectors = {name: self._vector(name) for name in _vector_names(model.spec, inventory)}
        self.notes = tuple(_notes(model.tensors, exact=exact))
        self._tensors = {}  # the file may be unmapped

    @property
    def num_bytes(self) -> int:
        """Total bytes of all matrices."""
        parts = [part for linear in self.linears.values() for part in linear.parts]
        return sum(part.num_bytes for part in {*parts, self.embedding})

    def _linear(self, names: tuple[str, ...]) -> MlxLinear:
        stored = [self._tensors[name] for name in names]
        for tensor in stored:
            if tensor.format not in FORMATS:
                known = ", ".join(FORMATS)
                raise UnsupportedModel(f"tensor {tensor.name!r} is stored as {tensor.format}; mlx reads {known}")
        agree = len({tensor.format for tensor in stored}) == 1
        groups = [stored] if agree else [[tensor] for tensor in stored]
        return MlxLinear([make_matrix(group, exact=self._exact) for group in groups], self._bias(names))

    def _bias(self, names: tuple[str, ...]) -> mx.array | None:
        found = [self._vector(f"{name}.bias") for name in names if f"{name}.bias" in self._tensors]
        return mx.concatenate(found) if found else None

    def _vector(self, name: str) -> mx.array:
        return mx.array(decode(self._tensors[name]).reshape(-1))


def _vector_names(spec: ModelSpec, inventory: Inventory) -> list[str]:
    if not (spec.qk_norm or spec.qk_norm_whole):
        return inventory.norms
    return inventory.norms + [f"layers.{i}.{name}" for i in range(spec.num_layers) for name in ("q_norm", "k_norm")]


def _notes(tensors: TensorSource, *, exact: bool) -> list[str]:
    formats = sorted({tensor.format for tensor in tensors.values() if len(tensor.shape) > 1} - {"F32", "F16", "BF16"})
    if exact and formats:
        return [f"exact: {' and '.join(formats)} weights were decoded to float32 at load and take that much memory"]
    return []
