"""Reads a whole GGUF file, with formats that have two block layouts under one number.

Only Q8_1 has two (`backends.weights.formats.q8_1`). The tensor table does not distinguish them; the size of the
tensors does, and one writer uses one layout. Writers leave no gaps but the zeros that align the next tensor.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import msgspec

from backends.errors import ModelError
from backends.weights.files import map_file
from backends.weights.formats import q8_1
from backends.weights.gguf.cursor import Cursor
from backends.weights.gguf.metadata import HEADER_BYTES, MetadataValue, read_header, read_pairs
from backends.weights.gguf.tensors import (
    TensorInfo,
    check_ranges,
    read_alignment,
    read_tensor_table,
    refuse_split,
    round_up,
    view_tensors,
)
from backends.weights.tensor import StoredTensor, TensorSource


def in_their_layouts(
    infos: list[TensorInfo], data: mmap.mmap, path: Path, *, start: int, alignment: int
) -> list[TensorInfo]:
    """The same tensors in the layout of the file, whose tensor data begin at `start`. Ranges were checked before.

    Raises `ModelError` if the tensors of such a format fill their space in neither layout.
    """
    narrow = [info for info in infos if info.form.wider]
    if not narrow:
        return infos
    wide = [_widened(info) for info in narrow]
    room = _room(infos, data_bytes=len(data) - start)
    is_narrow, is_wide = (_all_fill(layout, room, alignment=alignment) for layout in (narrow, wide))
    if not (is_narrow or is_wide):
        raise ModelError(
            f"{path}: the {narrow[0].form.name} tensors fill their room with blocks of neither "
            f"{narrow[0].form.block_bytes} nor {wide[0].form.block_bytes} bytes; the file is truncated or damaged"
        )
    if is_narrow and (not is_wide or _padding_is_zero(narrow, wide, data, start=start)):
        return infos
    by_name = {info.name: info for info in wide}
    return [by_name.get(info.name, info) for info in infos]


def _widened(info: TensorInfo) -> TensorInfo:
    assert info.form.wider is not None  # the caller checked
    return msgspec.structs.replace(info, form=info.form.wider)


def _room(infos: list[TensorInfo], *, data_bytes: int) -> dict[int, tuple[int, bool]]:
    """Offset → bytes up to the next tensor or the end of the file, and whether it is the latter."""
    starts = sorted(info.offset for info in infos)
    return {start: (end - start, end == data_bytes) for start, end in pairwise([*starts, data_bytes])}


def _all_fill(infos: list[TensorInfo], room: dict[int, tuple[int, bool]], *, alignment: int) -> bool:
    """True if every tensor fills its space; the last of a file may lack its padding."""
    for info in infos:
        num_bytes, is_last = room[info.offset]
        padded = round_up(info.num_bytes, alignment)
        if num_bytes != padded and not (is_last and info.num_bytes <= num_bytes < padded):
            return False
    return True


def _padding_is_zero(narrow: list[TensorInfo], wide: list[TensorInfo], data: mmap.mmap, *, start: int) -> bool:
    """True if the narrow layout's padding is zero, as GGUF requires. Tensors of few blocks have one size in both."""
    for short, long in zip(narrow, wide, strict=True):
        at = start + short.offset
        if any(data[at + short.num_bytes : at + long.num_bytes]):
            return False
    return True


def narrowed(tensors: TensorSource) -> TensorSource:
    """The tensors as runners read them: those in the wider layout are converted to Q8_1 at each access."""
    if all(tensor.format != q8_1.WIDE.name for tensor in tensors.values()):
        return tensors
    return _NarrowedSource(tensors)


class _NarrowedSource(Mapping[str, StoredTensor]):
    """Converts at each access and caches nothing, so a model never has a second copy of its weights."""

    def __init__(self, tensors: TensorSource) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> StoredTensor:
        tensor = self._tensors[name]
        if tensor.format != q8_1.WIDE.name:
            return tensor
        try:
            blocks = q8_1.narrow(tensor.data.reshape(-1, q8_1.WIDE.block_bytes))
        except ModelError as error:
            raise ModelError(f"tensor {tensor.name!r}: {error}") from error
        data = blocks.reshape(len(tensor.data), -1)
        return msgspec.structs.replace(tensor, format=q8_1.FORMAT.name, data=data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class GgufFile(msgspec.Struct, frozen=True, kw_only=True):
    """An opened file. Tensors carry the names of the file and are views of the mapped file.

    Q8_1 may be in its older layout (a format name of its own); `narrowed` makes of it what runners read.
    """

    path: Path
    metadata: dict[str, MetadataValue]
    tensors: dict[str, StoredTensor]


def read_gguf(path: Path) -> GgufFile:
    """Read the file's tables and map its tensors; values are not read. Raises `ModelError`."""
    data = map_file(path, min_bytes=HEADER_BYTES)
    cursor = Cursor(data, path)
    num_tensors, num_pairs = read_header(cursor)
    metadata = read_pairs(cursor, num_pairs)
    refuse_split(path, metadata)
    alignment = read_alignment(path, metadata)
    infos = read_tensor_table(cursor, num_tensors, alignment=alignment)
    start = round_up(cursor.position, alignment)
    check_ranges(path, infos, data_bytes=len(data) - start)
    infos = in_their_layouts(infos, data, path, start=start, alignment=alignment)
    return GgufFile(path=path, metadata=metadata, tensors=view_tensors(data, infos, start=start))
