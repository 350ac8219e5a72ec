"""Write `blocks.npz`: rows of floats, and the bytes that llama.cpp's quantizers make of them.

    python -m tests.backends.weights.golden.make PATH/libggml-base.so

The library is built from llama.cpp, commit 0c1e570 (ggml 0.25.3), the source inside the source distribution of
`llama-cpp-python` 0.3.36, for plain x86-64, where no multiply-add is fused:
`cmake -B build -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF && cmake --build build --target ggml-base`. The rows are stored
too, so that nothing depends on how a random number is drawn.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backends.weights.formats import FORMATS
from backends.weights.formats.format import F32, U8

BLOCKS = Path(__file__).parent / "blocks.npz"
COLUMNS = 512
CHUNKED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
WEIGHTED = tuple(name for name in CHUNKED if name != "Q8_0")
RUN_TIME = {"Q8_1": "quantize_row_q8_1_ref", "Q8_K": "quantize_row_q8_K_ref"}
"""Formats of llama.cpp's run time, which its tools do not write."""


def rows() -> F32:
    """float32 `[18, 512]`: edges, then weights as they are, of several sizes."""
    rng = np.random.default_rng(20)
    ramp = np.linspace(-1, 1, COLUMNS)
    edges = [
        np.zeros(COLUMNS),
        np.ones(COLUMNS),
        -np.ones(COLUMNS),
        ramp,
        np.tile([1.0, -1.0], COLUMNS // 2),
        np.tile([-8.0, 7.5, 0.5, -0.5], COLUMNS // 4),
        np.eye(1, COLUMNS)[0],
        np.full(COLUMNS, 1e-20),  # far below the smallest scale; with much smaller ones the C code divides by zero
        ramp * np.exp2(rng.integers(-12, 12, COLUMNS)),
        np.where(
            np.arange(COLUMNS) % 64 < 32, 0.0, np.tile([-0.0, 0.0, 0.25, -0.0], COLUMNS // 4)
        ),  # zero has two signs
        np.tile([-0.0, 0.0], COLUMNS // 2),
        rng.integers(-3, 4, COLUMNS),
        rng.standard_normal(COLUMNS) * (rng.random(COLUMNS) < 0.05),
        np.abs(rng.standard_normal(COLUMNS)) + 0.5,
        -np.abs(rng.standard_normal(COLUMNS)) - 0.5,
    ]
    usual = [rng.standard_normal(COLUMNS) * scale for scale in (1e-3, 0.05, 30.0)]
    return np.stack([*edges, *usual]).astype(np.float32)


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    values = rows()
    importance = np.random.default_rng(21).uniform(0.01, 4.0, COLUMNS).astype(np.float32)
    importance[::37] = 0  # columns that nothing ever reached
    arrays: dict[str, Any] = {"rows": values, "importance": importance}  # Any: `savez` has options, too
    for name in CHUNKED:
        arrays[name] = _chunk(library, name, values, None)
    for name in WEIGHTED:
        arrays[f"{name} weighted"] = _chunk(library, name, values, importance)
    for name, function in RUN_TIME.items():
        arrays[name] = _row_by_row(getattr(library, function), name, values)
    np.savez_compressed(BLOCKS, **arrays)


def _chunk(library: ctypes.CDLL, name: str, values: F32, importance: F32 | None) -> U8:
    data = np.empty((len(values), FORMATS[name].bytes_per_row(COLUMNS)), np.uint8)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk(
        FORMATS[name].ggml_type,
        values.ctypes.data_as(ctypes.c_void_p),
        data.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0),
        ctypes.c_int64(len(values)),
        ctypes.c_int64(COLUMNS),
        importance.ctypes.data_as(ctypes.c_void_p) if importance is not None else None,
    )
    return data


def _row_by_row(function: Callable[..., object], name: str, values: F32) -> U8:
    # Zeros: `quantize_row_q8_K_ref` leaves the sums of a block of zeros as it finds them.
    data = np.zeros((len(values), FORMATS[name].bytes_per_row(COLUMNS)), np.uint8)
    for row, into in zip(values, data, strict=True):
        function(row.ctypes.data_as(ctypes.c_void_p), into.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(COLUMNS))
    return data


if __name__ == "__main__":
    main()
