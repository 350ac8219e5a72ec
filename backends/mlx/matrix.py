"""Weight matrices as stored, and their products with float32 activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np

from backends.mlx.affine import AffineParts, affine_parts
from backends.weights.integers import SPLITTERS
from backends.weights.tensor import StoredTensor, decode

_FLOATS = {"F32": np.float32, "F16": np.float16}
FORMATS = ("F32", "F16", "BF16", *SPLITTERS)
"""Formats that can be computed with in their stored form."""


class MlxMatrix(Protocol):
    """Matrices of one form, one below the other: `[rows, columns]`."""

    @property
    def num_bytes(self) -> int: ...

    def product(self, x: mx.array) -> mx.array:
        """x @ Wᵀ: float32 `[T, columns]` → `[T, rows]`."""
        ...

    def rows(self, index: mx.array) -> mx.array:
        """float32 `[len(index), columns]`."""
        ...


def make_matrix(tensors: Sequence[StoredTensor], *, exact: bool) -> MlxMatrix:
    """Matrix of tensors that have one format and width. `exact` decodes quantized ones to float32 now."""
    name = tensors[0].format
    if name in SPLITTERS and not exact:
        return AffineMatrix([affine_parts(tensor) for tensor in tensors])
    return FloatMatrix(mx.concatenate([_floats(tensor) for tensor in tensors]))


class FloatMatrix:
    """Resident in its own type, computed with as float32."""

    def __init__(self, weight: mx.array) -> None:
        self._weight = weight
        mx.eval(weight)

    @property
    def num_bytes(self) -> int:
        return self._weight.nbytes

    def product(self, x: mx.array) -> mx.array:
        return x @ self._weight.astype(mx.float32).T

    def rows(self, index: mx.array) -> mx.array:
        return self._weight[index].astype(mx.float32)


class AffineMatrix:
    """MLX's quantized form: value = scale * code + bias by groups, unpacked inside the product.

    Where a format's groups are half of MLX's smallest, the same codes are used twice: with the scales of the first
    halves and zeros for the others' activations, then the other way round.
    """

    def __init__(self, parts: list[AffineParts]) -> None:
        self._bits, self._group, self._halves = parts[0].bits, parts[0].group, parts[0].halves
        self._codes = mx.array(np.concatenate([part.codes for part in parts]))
        self._scales = [mx.array(np.concatenate(each)) for each in zip(*(part.scales for part in parts), strict=True)]
        self._biases = [mx.array(np.concatenate(each)) for each in zip(*(part.biases for part in parts), strict=True)]
        mx.eval(self._codes, self._scales, self._biases)

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in (self._codes, *self._scales, *self._biases))

    def product(self, x: mx.array) -> mx.array:
        inputs = [x] if not self._halves else self._half_inputs(x)
        products = [
            mx.quantized_matmul(part, self._codes, scales, biases, group_size=self._group, bits=self._bits)
            for part, scales, biases in zip(inputs, self._scales, self._biases, strict=True)
        ]
        return products[0] if len(products) == 1 else products[0] + products[1]

    def rows(self, index: mx.array) -> mx.array:
        codes = self._codes[index]
        decoded = [
            mx.dequantize(codes, scales[index], biases[index], group_size=self._group, bits=self._bits)
            for scales, biases in zip(self._scales, self._biases, strict=True)
        ]
        if not self._halves:
            return decoded[0]
        return mx.where(self._is_first_half(decoded[0].shape[1]), decoded[0], decoded[1])

    def _half_inputs(self, x: mx.array) -> list[mx.array]:
        is_first = self._is_first_half(x.shape[1])
        zero = mx.zeros((), x.dtype)
        return [mx.where(is_first, x, zero), mx.where(is_first, zero, x)]

    def _is_first_half(self, columns: int) -> mx.array:
        return mx.arange(columns) % self._group < self._group // 2


def _floats(tensor: StoredTensor) -> mx.array:
    if tensor.format in _FLOATS:
        return mx.array(tensor.data.view(_FLOATS[tensor.format]))
    if tensor.format == "BF16":
        return mx.array(tensor.data.view(np.uint16)).view(mx.bfloat16)
    return mx.array(decode(tensor))
