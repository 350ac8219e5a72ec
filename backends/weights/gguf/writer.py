"""Writes a GGUF file, version 3, little-endian, tensor after tensor: only the tables are kept in memory.

Layout as in `backends.weights.gguf`. Sizes are known before the first byte is written.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import BinaryIO, NewType

import msgspec
import numpy as np
import numpy.typing as npt

from backends.errors import ModelError
from backends.weights.formats import FORMATS, bytes_per_row
from backends.weights.gguf.cursor import MAX_TABLE_BYTES

DEFAULT_ALIGNMENT = 32

_HEAD = struct.Struct("<4sIQQ")
_VERSION = 3
_MAX_NAME_BYTES = 63  # GGML_MAX_NAME less the closing zero
_MAX_KEY_BYTES = 1 << 10
_MAX_DIMS = 4

EncodedValue = NewType("EncodedValue", bytes)
"""A metadata value as it stands in the file: its type number, then the value."""


class Kind(IntEnum):
    """`enum gguf_metadata_value_type`, arrays aside."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_LETTERS = {
    Kind.UINT8: "B",
    Kind.INT8: "b",
    Kind.UINT16: "H",
    Kind.INT16: "h",
    Kind.UINT32: "I",
    Kind.INT32: "i",
    Kind.FLOAT32: "f",
    Kind.BOOL: "?",
    Kind.UINT64: "Q",
    Kind.INT64: "q",
    Kind.FLOAT64: "d",
}
_ARRAY = 9


def scalar(kind: Kind, value: bool | int | float | str) -> EncodedValue:
    """Encode one value. Raises `ModelError` for one that `kind` cannot represent."""
    return EncodedValue(_u32(kind) + _items(kind, [value]))


def array(kind: Kind, values: Sequence[bool | int | float | str]) -> EncodedValue:
    """An array of values of one kind, perhaps empty. Raises as `scalar`."""
    return EncodedValue(_u32(_ARRAY) + _u32(kind) + _u64(len(values)) + _items(kind, values))


def _items(kind: Kind, values: Sequence[bool | int | float | str]) -> bytes:
    if kind == Kind.STRING:
        return b"".join(_string(str(value)) for value in values)
    try:
        return struct.pack(f"<{len(values)}{_LETTERS[kind]}", *values)
    except (struct.error, OverflowError) as error:
        raise ModelError(f"a metadata value cannot be stored as {kind.name}: {error}") from error


def _string(text: str) -> bytes:
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ModelError(f"the text {text[:40]!r} is not valid Unicode") from error
    return _u64(len(raw)) + raw


def _u32(value: int) -> bytes:
    return struct.pack("<I", value)


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value)


class TensorEntry(msgspec.Struct, frozen=True):
    """One row of the tensor table; `shape` is row-major, as in `StoredTensor`."""

    name: str
    format: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return bytes_per_row(self.format, self.shape[-1])

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.row_bytes


class GgufWriter:
    """Writes the head, then the rows of each tensor in the order of `tensors`, then `finish`.

    Raises `ModelError` for names, shapes and tables that no reader would take, before anything is written.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        metadata: Mapping[str, EncodedValue],
        tensors: Sequence[TensorEntry],
        alignment: int = DEFAULT_ALIGNMENT,
    ) -> None:
        self._file = file
        self._alignment = alignment
        for entry in tensors:
            _check(entry)
        self._sizes = [entry.num_bytes for entry in tensors]
        self._names = [entry.name for entry in tensors]
        self._current = 0
        self._written = 0
        self.head = self._encoded_head(metadata, tensors)
        """Everything before the tensor data, padding included."""

    @property
    def num_bytes(self) -> int:
        """Size of the finished file."""
        return len(self.head) + sum(size + self._padding(size) for size in self._sizes)

    def write_head(self) -> None:
        self._file.write(self.head)

    def write_rows(self, rows: npt.NDArray[np.uint8]) -> None:
        """The next whole rows of the tensor under way; the last ones end it and begin the next."""
        if self._current == len(self._sizes) or self._written + rows.nbytes > self._sizes[self._current]:
            raise ModelError("more tensor data than the table announces")
        self._file.write(np.ascontiguousarray(rows).data)
        self._written += rows.nbytes
        if self._written == self._sizes[self._current]:
            self._file.write(bytes(self._padding(self._written)))
            self._current, self._written = self._current + 1, 0

    def finish(self) -> None:
        """Raises `ModelError` unless every tensor is complete."""
        if self._current < len(self._sizes):
            raise ModelError(f"tensor {self._names[self._current]!r} is incomplete")

    def _encoded_head(self, metadata: Mapping[str, EncodedValue], tensors: Sequence[TensorEntry]) -> bytes:
        if len(set(self._names)) < len(self._names):
            raise ModelError("two tensors share a name")
        pairs = [_key(key) + value for key, value in metadata.items()]
        table, offset = [], 0
        for entry, size in zip(tensors, self._sizes, strict=True):
            table.append(_encoded_entry(entry, offset))
            offset += size + self._padding(size)
        head = _HEAD.pack(b"GGUF", _VERSION, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(table)
        if len(head) > MAX_TABLE_BYTES:
            raise ModelError(f"metadata and tensor table take {len(head)} bytes; at most {MAX_TABLE_BYTES} are read")
        return head + bytes(self._padding(len(head)))

    def _padding(self, num_bytes: int) -> int:
        return -num_bytes % self._alignment


def _key(key: str) -> bytes:
    raw = _string(key)
    if not key or len(raw) > 8 + _MAX_KEY_BYTES:
        raise ModelError(f"metadata key {key[:40]!r} is empty or longer than {_MAX_KEY_BYTES} bytes")
    return raw


def _check(entry: TensorEntry) -> None:
    if len(_string(entry.name)) > 8 + _MAX_NAME_BYTES:
        raise ModelError(f"tensor name {entry.name!r} is longer than {_MAX_NAME_BYTES} bytes")
    shape = list(entry.shape)
    if not 1 <= len(shape) <= _MAX_DIMS or min(shape) < 1:
        raise ModelError(f"tensor {entry.name!r} has shape {shape}; expected 1 to {_MAX_DIMS} positive sizes")


def _encoded_entry(entry: TensorEntry, offset: int) -> bytes:
    dims = struct.pack(f"<{len(entry.shape)}Q", *reversed(entry.shape))
    ggml_type = FORMATS[entry.format].ggml_type
    return _string(entry.name) + _u32(len(entry.shape)) + dims + _u32(ggml_type) + _u64(offset)
