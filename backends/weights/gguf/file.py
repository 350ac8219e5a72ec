"""Reading a whole GGUF file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backends.weights.gguf.cursor import Cursor
from backends.weights.gguf.layouts import in_their_layouts
from backends.weights.gguf.metadata import HEADER_BYTES, MetadataValue, read_header, read_pairs
from backends.weights.gguf.tensors import (
    check_ranges,
    read_alignment,
    read_tensor_table,
    refuse_split,
    round_up,
    view_tensors,
)
from backends.weights.mapped_file import map_file
from backends.weights.tensor import StoredTensor


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
