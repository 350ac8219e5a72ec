"""Converts weights to the operands of the graph: dense, block-quantized, or as tiles of Hostelry's own kernels.

Their operator reads the tiles in place, so the only copy of the weights is the one made here.

float formats   MatMul, float32 `[K, N]`
quantized       QuantizedLinear over tiles, where Hostelry's kernels are available, else:
Q8_0 Q4_0 …     MatMulNBits at accuracy level 4 (int8 activations): codes and one scale a group
with minima     the same, plus blocksum(x) @ offsets

The head is no exception: it keeps the bits that the file gives it. Float zero points, 8 bits at accuracy level 0 and
2 bits with groups of 16 would be 100 times slower and are avoided.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from backends.errors import UnsupportedModel
from backends.kernels.library import LEVEL_VARIABLE, TILE_ROWS, KernelsUnavailable, Library, load_library
from backends.kernels.linear import interleave
from backends.onnx.errors import NATIVE
from backends.weights.formats import FORMATS as STORAGE_FORMATS
from backends.weights.integers import SPLITTERS, integers_of
from backends.weights.tensor import StoredTensor, TensorSource, decode

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
    """Kernel library if it can be used, and a note on that for operators, empty if it was not requested."""

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
    form, columns = STORAGE_FORMATS[group[0].format], group[0].shape[1]
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


FLOAT_FORMATS = ("F32", "F16", "BF16")
FORMATS = (*FLOAT_FORMATS, *SPLITTERS)

Array = npt.NDArray[np.generic]
F32 = npt.NDArray[np.float32]


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """Packed linear of N `rows` and K `columns`.

    `bits=None`: `data` is float32 `[K, N]`. Else `data` are codes, uint8 `[N, groups, bytes]`, low nibble first;
    `scales` float32 `[N, groups]`; `offsets` float32 `[groups, N]`.
    """

    name: str
    rows: int
    columns: int
    data: Array
    bits: int | None = None
    group: int = 0
    scales: Array | None = None
    offsets: Array | None = None


class OnnxWeights:
    """Turns stored tensors into operands. `exact` decodes quantized ones to float32: slow, big, the reference.

    `num_bytes` counts what was packed so far, `untiled` names what the kernels did not take; `progress` is called with
    the share of the stored bytes that is done.
    """

    def __init__(
        self, tensors: TensorSource, *, exact: bool, kernels: Library | None, progress: Callable[[float], None]
    ) -> None:
        self._tensors = tensors
        self._exact = exact
        self._kernels = kernels
        self._progress = progress
        self._bytes_stored = sum(tensor.data.nbytes for tensor in tensors.values())
        self._bytes_done = 0
        self.num_bytes = 0
        self.untiled: list[str] = []

    def floats(self, name: str) -> F32:
        return decode(self._tensors[name])

    def bias(self, names: tuple[str, ...]) -> F32 | None:
        """Biases of linears side by side, or `None` if the model has none."""
        found = [decode(self._tensors[f"{name}.bias"]) for name in names if f"{name}.bias" in self._tensors]
        return np.concatenate(found) if found else None

    def linears(self, names: tuple[str, ...]) -> list[Packed | Tiles]:
        """Operands whose products, side by side, are those of `names`: one if their formats agree."""
        stored = [self._tensors[name] for name in names]
        kinds = {self._kind(tensor) for tensor in stored}
        groups = [stored] if len(kinds) == 1 else [[tensor] for tensor in stored]
        packed = [self._pack(group) for group in groups]
        self._count(packed, stored)
        return packed

    def gated(self, names: tuple[str, ...]) -> Tiles | None:
        """Gate and up interleaved, for an operator that also multiplies; `None` for others and where that cannot be."""
        stored = [self._tensors[name] for name in names]
        kinds = {self._kind(tensor) for tensor in stored}
        if (
            self._kernels is None
            or len(names) != 2
            or len(kinds) > 1
            or kinds == {"float"}
            or self.bias(names) is not None
        ):
            return None
        tiles = pack(self._kernels, stored, gated=True)
        if tiles is not None:
            self._count([tiles], stored)
        return tiles

    def _kind(self, tensor: StoredTensor) -> str:
        if tensor.format not in FORMATS:
            raise UnsupportedModel(
                f"tensor {tensor.name!r} is stored as {tensor.format}; the onnx runner reads {', '.join(FORMATS)}"
            )
        return "float" if self._exact or tensor.format in FLOAT_FORMATS else tensor.format

    def _pack(self, group: list[StoredTensor]) -> Packed | Tiles:
        name = "+".join(tensor.name for tensor in group)
        if self._kind(group[0]) != "float":
            return self._tiles(name, group) or _integers(name, group)
        data = np.concatenate([decode(tensor) for tensor in group])
        return Packed(name=name, rows=data.shape[0], columns=data.shape[1], data=np.ascontiguousarray(data.T))

    def _tiles(self, name: str, group: list[StoredTensor]) -> Tiles | None:
        if self._kernels is None:
            return None
        tiles = pack(self._kernels, group)
        if tiles is None:
            self.untiled.append(name)
        return tiles

    def _count(self, packed: Sequence[Packed | Tiles], stored: list[StoredTensor]) -> None:
        self.num_bytes += sum(_num_bytes(part) for part in packed)
        self._bytes_done += sum(tensor.data.nbytes for tensor in stored)
        self._progress(min(1.0, self._bytes_done / self._bytes_stored))


def _integers(name: str, group: list[StoredTensor]) -> Packed:
    parts = [integers_of(tensor) for tensor in group]
    bits, size = parts[0].bits, parts[0].group
    codes = np.concatenate([part.codes for part in parts])
    rows, columns = codes.shape
    if bits == 4:
        codes = codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    groups = columns // size
    offsets = [part.offsets for part in parts if part.offsets is not None]
    return Packed(
        name=name,
        rows=rows,
        columns=columns,
        data=np.ascontiguousarray(codes.reshape(rows, groups, size * bits // 8)),
        bits=bits,
        group=size,
        scales=np.ascontiguousarray(np.concatenate([part.scales for part in parts])),
        offsets=np.ascontiguousarray(np.concatenate(offsets).T) if offsets else None,
    )


def _num_bytes(packed: Packed | Tiles) -> int:
    if isinstance(packed, Tiles):
        return packed.data.nbytes
    arrays = (packed.data, packed.scales, packed.offsets)
    return sum(array.nbytes for array in arrays if array is not None)
