"""A quantized linear in NumPy: what the torch path and the tests multiply with."""

from __future__ import annotations

import ctypes
from typing import Literal

import msgspec
import numpy as np

from backends.errors import UnsupportedModel
from backends.kernels.library import F32, TILE_ROWS, U8, Epilogue, Library, TileWeights, aligned, in_parts
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor

ActivationType = Literal["none", "swiglu", "geglu_tanh"]
_SHARED_ROWS = 32
"""Below this many rows of activations, another thread costs more than it helps."""
_ACTIVATIONS: dict[ActivationType, int] = {"none": 0, "swiglu": 1, "geglu_tanh": 2}


class Linear(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix `[rows, columns]` in tiles."""

    library: Library
    ggml_type: int
    rows: int
    columns: int
    packed: U8

    def multiply(
        self,
        x: F32,
        *,
        bias: F32 | None = None,
        residual: F32 | None = None,
        activation: ActivationType = "none",
        threads: int = 1,
    ) -> F32:
        """x @ Wᵀ, float32 `[T, columns]` → `[T, rows]`, or `[T, rows / 2]` with a gated activation.

        `bias` float32 `[rows]`, `residual` of the result's shape. Activations are rounded to int8 in blocks of 32, or
        of 16 where the weights' scales are for 16 columns (Q2_K, Q3_K, Q6_K).
        """
        x = np.ascontiguousarray(x, np.float32)
        outputs = self.rows if activation == "none" else self.rows // 2
        y = np.empty((len(x), outputs), np.float32)
        kept = [None if array is None else np.ascontiguousarray(array, np.float32) for array in (bias, residual)]
        epilogue = Epilogue(*(array.ctypes.data if array is not None else None for array in kept))
        epilogue.activation = _ACTIVATIONS[activation]
        self._run(x, y, epilogue, threads=threads, step=1 if activation == "none" else 2)
        return y

    def _run(self, x: F32, y: F32, epilogue: Epilogue, *, threads: int, step: int) -> None:
        functions, count = self.library.functions, len(x)
        scratch = aligned(functions.hk_scratch_bytes(self.ggml_type, count, self.columns))
        weights = TileWeights(self.ggml_type, self.rows, self.columns, self.packed.ctypes.data)

        def activate(first: int, last: int) -> None:
            functions.hk_activate(self.ggml_type, x.ctypes.data, count, self.columns, scratch.ctypes.data, first, last)

        def multiply(first: int, last: int) -> None:
            functions.hk_multiply(
                ctypes.byref(weights),
                scratch.ctypes.data,
                count,
                first * step,
                last * step,
                y.ctypes.data,
                y.shape[1],
                ctypes.byref(epilogue),
            )

        in_parts(activate, count, threads=threads if count >= _SHARED_ROWS else 1)
        in_parts(multiply, functions.hk_num_tiles(self.rows) // step, threads=threads)


def linear_of(library: Library, tensor: StoredTensor, *, gated: StoredTensor | None = None) -> Linear:
    """The matrix of a tensor; with `gated`, 16 rows of each in turns. Raises `UnsupportedModel`."""
    data = tensor.data if gated is None else interleave(tensor.data, gated.data)
    ggml_type, columns = FORMATS[tensor.format].ggml_type, tensor.shape[1]
    packed = library.pack(ggml_type, len(data), columns, data)
    if packed is None:
        raise UnsupportedModel(f"tensor {tensor.name!r} of {len(data)} x {columns} in {tensor.format} makes no tiles")
    return Linear(library=library, ggml_type=ggml_type, rows=len(data), columns=columns, packed=packed)


def interleave(gate: U8, up: U8) -> U8:
    """Rows of both in turns of 16; their number is a multiple of 16."""
    turns = [half.reshape(-1, TILE_ROWS, half.shape[1]) for half in (gate, up)]
    return np.stack(turns, axis=1).reshape(-1, gate.shape[1])
