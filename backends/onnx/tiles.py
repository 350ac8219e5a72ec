"""Quantized weights as tiles of Hostelry's own kernels, and whether these can be had.

Their operator reads the tiles where they lie, so the only copy of the weights is the one made here.
"""

from __future__ import annotations

import os

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from backends.kernels.library import LEVEL_VARIABLE, TILE_ROWS, KernelsUnavailable, Library, load_library
from backends.kernels.linear import interleave
from backends.onnx.failures import NATIVE
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor

U8 = npt.NDArray[np.uint8]


class Tiles(msgspec.Struct, frozen=True, kw_only=True):
    """A linear of N `rows` and K `columns`; `data` uint8, as `ggml_type` is packed.

    `gated`: rows alternate, 16 of the gate and 16 of what it gates.
    """

    name: str
    rows: int
    columns: int
    ggml_type: int
    gated: bool
    data: U8


class Kernels(msgspec.Struct, frozen=True):
    """The library if it can be used, and a sentence about that for operators, empty if nobody asked for it."""

    library: Library | None = None
    note: str = ""


def find_kernels() -> Kernels:
    """The library, if this onnxruntime takes it."""
    slower = "onnxruntime's MatMulNBits and GroupQueryAttention serve, slower than Hostelry's kernels"
    try:
        library = load_library()
        ort.SessionOptions().register_custom_ops_library(str(library.path))
    except KernelsUnavailable as error:
        return Kernels(None, f"{slower}: {error}")
    except NATIVE as error:
        return Kernels(None, f"{slower}: onnxruntime refused them: {error}")
    asked = os.environ.get(LEVEL_VARIABLE, "")
    if library.level == "scalar" and asked != "scalar":
        return Kernels(None, f"{slower} are elsewhere: this CPU has none of their instructions")
    missed = f"; {asked} was asked for and this CPU has not got it" if asked not in ("", library.level) else ""
    return Kernels(library, f"attention and quantized weights run on Hostelry's kernels, level {library.level}{missed}")


def pack(library: Library, group: list[StoredTensor], *, gated: bool = False) -> Tiles | None:
    """Matrices of one format, one below the other or gate and up interleaved; `None` if they make no tiles."""
    form, columns = FORMATS[group[0].format], group[0].shape[1]
    rows = sum(tensor.shape[0] for tensor in group)
    if gated and group[0].shape[0] % TILE_ROWS:
        return None
    data = [tensor.data for tensor in group]
    blocks = interleave(*data) if gated else data[0] if len(data) == 1 else np.concatenate(data)
    if blocks.shape != (rows, form.bytes_per_row(columns)):
        return None
    packed = library.pack(form.ggml_type, rows, columns, blocks)
    if packed is None:
        return None
    name = "+".join(tensor.name for tensor in group)
    return Tiles(name=name, rows=rows, columns=columns, ggml_type=form.ggml_type, gated=gated, data=packed)
