"""Tensor table of a GGUF file: every tensor is proved to lie inside the file before a view of it is made."""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import msgspec
import numpy as np

from backends.errors import ModelError, UnsupportedModel
from backends.weights.formats import Format, format_by_ggml_type
from backends.weights.gguf.cursor import Cursor
from backends.weights.gguf.metadata import Metadata
from backends.weights.tensor import StoredTensor

_MAX_NAME_BYTES = 64  # docs/gguf.md
_MAX_DIMS = 4
_ALIGNMENT_KEY = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20


class TensorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the tensor table, checked by itself. `offset` counts from the start of the data."""

    name: str
    form: Format
    shape: tuple[int, ...]
    offset: int

    @property
    def num_rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.form.bytes_per_row(self.shape[-1])


def read_alignment(path: Path, metadata: Metadata) -> int:
    """Alignment of the tensor data in bytes, a power of two."""
    alignment = metadata.get(_ALIGNMENT_KEY, _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ModelError(f"{path}: {_ALIGNMENT_KEY} is {alignment!r}; expected a power of two up to {_MAX_ALIGNMENT}")
    return alignment


def read_tensor_table(cursor: Cursor, num_tensors: int, *, alignment: int) -> list[TensorInfo]:
    """The tensor table. Raises `ModelError` for sizes beyond the file, bad offsets and duplicate names."""
    infos = [_read_info(cursor, alignment=alignment) for _ in range(num_tensors)]
    seen: set[str] = set()
    for info in infos:
        if info.name in seen:
            raise ModelError(f"{cursor.path}: tensor {info.name!r} appears twice")
        seen.add(info.name)
    return infos


def _read_info(cursor: Cursor, *, alignment: int) -> TensorInfo:
    name = cursor.string("tensor name", max_bytes=_MAX_NAME_BYTES)
    num_dims = cursor.u32(f"dimensions of tensor {name!r}")
    if not 1 <= num_dims <= _MAX_DIMS:
        cursor.fail(f"tensor {name!r} has {num_dims} dimensions; expected 1 to {_MAX_DIMS}")
    dims = [cursor.u64(f"dimension of tensor {name!r}") for _ in range(num_dims)]
    ggml_type = cursor.u32(f"type of tensor {name!r}")
    offset = cursor.u64(f"offset of tensor {name!r}")
    if 0 in dims:
        cursor.fail(f"tensor {name!r} has dimensions {dims}; every one must be positive")
    if offset % alignment:
        cursor.fail(f"tensor {name!r} has offset {offset}; expected a multiple of {alignment}")
    try:
        info = TensorInfo(name=name, form=format_by_ggml_type(ggml_type), shape=tuple(reversed(dims)), offset=offset)
        num_bytes = info.num_bytes
    except ModelError as error:
        raise type(error)(f"{cursor.path}: tensor {name!r}: {error}") from error
    file_bytes = len(cursor.data)
    if num_bytes > file_bytes:
        cursor.fail(f"tensor {name!r} of shape {info.shape} needs {num_bytes} bytes; the file has {file_bytes}")
    return info


def round_up(num_bytes: int, alignment: int) -> int:
    """The next multiple of `alignment`."""
    return -(-num_bytes // alignment) * alignment


def view_tensors(data: mmap.mmap, infos: list[TensorInfo], *, start: int) -> dict[str, StoredTensor]:
    """Views of all tensors, by stored name; `check_ranges` has passed. The tensor data begin at `start`."""
    return {info.name: _view(data, info, start) for info in infos}


def check_ranges(path: Path, infos: list[TensorInfo], *, data_bytes: int) -> None:
    """Raise `ModelError` for tensors that overlap or leave the `data_bytes` of tensor data."""
    end, previous = 0, ""
    for info in sorted(infos, key=lambda info: info.offset):
        if info.offset < end:
            raise ModelError(
                f"{path}: tensor {info.name!r} at offset {info.offset} overlaps tensor {previous!r}, "
                f"which ends at {end}"
            )
        end, previous = info.offset + info.num_bytes, info.name
        if end > data_bytes:
            raise ModelError(
                f"{path}: tensor {info.name!r} occupies bytes {info.offset} to {end} of the tensor data, "
                f"but the file holds only {max(data_bytes, 0)}; it is truncated or damaged"
            )


def _view(data: mmap.mmap, info: TensorInfo, start: int) -> StoredTensor:
    raw = np.frombuffer(data, np.uint8, count=info.num_bytes, offset=start + info.offset)
    return StoredTensor(info.name, info.form.name, info.shape, raw.reshape(info.num_rows, -1))


def refuse_split(path: Path, metadata: Metadata) -> None:
    """Raise `UnsupportedModel` for one part of a model that was split into several files."""
    parts = metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise UnsupportedModel(
            f"{path}: one of {parts} parts of a split model (split.count); "
            "join them first with `llama-gguf-split --merge`"
        )
