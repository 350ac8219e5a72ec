"""A model's matrices as the CUDA path multiplies with them. Not verified on a GPU yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from backends.torch.cuda.dequant_matmul import times
from backends.torch.matrix import TorchMatrix
from backends.torch.weights import TorchLinear, TorchWeights


class Dense:
    """A matrix `[rows, columns]` of floats, as stored. Sums are float32 whatever its type."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def rows(self, index: Tensor) -> Tensor:
        """float32 `[len(index), columns]`."""
        return self.weight[index].float()

    def times(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, of x's type."""
        return functional.linear(x, self.weight)

    def exactly(self, x: Tensor) -> Tensor:
        """x @ Wᵀ as float32, not rounded to x's type."""
        if x.device.type == "cuda" and x.dtype != torch.float32 and len(x):
            return torch.mm(x, self.weight.t(), out_dtype=torch.float32)
        return functional.linear(x.float(), self.weight.float())


class Quantized:
    """A matrix of quantized blocks, with the same products, straight from the blocks."""

    def __init__(self, matrix: TorchMatrix) -> None:
        self._matrix = matrix

    def rows(self, index: Tensor) -> Tensor:
        return self._matrix.rows(index)

    def times(self, x: Tensor) -> Tensor:
        return times(x, self._matrix)

    def exactly(self, x: Tensor) -> Tensor:
        return times(x.float(), self._matrix)


class DecodedProduct:
    """A matrix of another float type than the activations', with the same products in float32."""

    def __init__(self, matrix: TorchMatrix) -> None:
        self._matrix = matrix

    def rows(self, index: Tensor) -> Tensor:
        return self._matrix.rows(index)

    def times(self, x: Tensor) -> Tensor:
        return self._matrix.product(x.float()).to(x.dtype)

    def exactly(self, x: Tensor) -> Tensor:
        return self._matrix.product(x.float())


Product = Dense | Quantized | DecodedProduct


class MergedLinear(msgspec.Struct, frozen=True):
    """Matrices side by side, and the bias of all of them in the type of the activations."""

    parts: tuple[Product, ...]
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        products = [part.times(x) for part in self.parts]
        y = products[0] if len(products) == 1 else torch.cat(products, dim=1)
        return y if self.bias is None else y.add_(self.bias)

    def exactly(self, x: Tensor) -> Tensor:
        """float32, not rounded to x's type; of matrices without bias."""
        products = [part.exactly(x) for part in self.parts]
        return products[0] if len(products) == 1 else torch.cat(products, dim=1)


class CudaWeights(msgspec.Struct, frozen=True, kw_only=True):
    """Weights that `CudaOps` looks up by canonical name. `dtype` is the type of activations, keys and values.

    Norms are float32; `head_norms` has for each layer `[heads + kv_heads, head_dim]`, or None.
    """

    dtype: torch.dtype
    embedding: Product
    linears: Mapping[tuple[str, ...], MergedLinear]
    norms: Mapping[str, Tensor]
    head_norms: Sequence[Tensor | None]


def activation_type(stored: Iterable[torch.dtype | None]) -> torch.dtype:
    """bfloat16 or float16 for weights of that type, else float32; `stored` has None for a quantized matrix.

    With bfloat16 or float16 a matrix may be float32, as routers are.
    """
    found = set(stored)
    if None in found:
        return torch.float32
    return next((dtype for dtype in (torch.bfloat16, torch.float16) if dtype in found), torch.float32)


def kv_type(weights: TorchWeights) -> torch.dtype:
    """Type of activations, keys and values for these weights."""
    matrices = [part for linear in weights.linears.values() for part in linear.parts]
    return activation_type(None if part.floats is None else part.floats.dtype for part in matrices)


def take_over(weights: TorchWeights) -> CudaWeights:
    """Matrices become views of what is resident; nothing but biases is copied."""
    dtype = kv_type(weights)
    return CudaWeights(
        dtype=dtype,
        embedding=_product(weights.embedding, dtype),
        linears={names: _merged(linear, dtype) for names, linear in weights.linears.items()},
        norms=weights.norms,
        head_norms=weights.head_norms,
    )


def _merged(linear: TorchLinear, dtype: torch.dtype) -> MergedLinear:
    bias = None if linear.bias is None else linear.bias.to(dtype)
    return MergedLinear(tuple(_product(part, dtype) for part in linear.parts), bias)


def _product(matrix: TorchMatrix, dtype: torch.dtype) -> Product:
    if matrix.floats is None:
        return Quantized(matrix)
    return Dense(matrix.floats) if matrix.floats.dtype == dtype else DecodedProduct(matrix)
