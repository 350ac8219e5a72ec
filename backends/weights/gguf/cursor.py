"""A position in untrusted bytes: every read is checked against the end before anything is allocated."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NoReturn

from backends.errors import ModelError

MAX_TABLE_BYTES = 1 << 27
"""Metadata and tensor table together, several times those of the largest vocabulary; bounds time and memory."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """Reads little-endian values one after another; `path` is for messages only."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = 0
        self.end = min(len(data), MAX_TABLE_BYTES)

    @property
    def remaining(self) -> int:
        return self.end - self.position

    def fail(self, message: str) -> NoReturn:
        """Raise `ModelError` naming the file and the current offset."""
        raise ModelError(f"{self.path}: at byte {self.position}: {message}")

    def need(self, num_bytes: int, what: str) -> None:
        """Raise `ModelError` unless `num_bytes` more bytes exist."""
        if num_bytes > self.remaining:
            self.fail(f"{what} needs {num_bytes} bytes, but only {self.remaining} are left")

    def u32(self, what: str) -> int:
        (value,) = self.unpack(_U32, what)
        return int(value)

    def u64(self, what: str) -> int:
        (value,) = self.unpack(_U64, what)
        return int(value)

    def unpack(self, layout: struct.Struct, what: str) -> tuple[bool | int | float, ...]:
        self.need(layout.size, what)
        values = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return values

    def string(self, what: str, *, max_bytes: int) -> str:
        """A length-prefixed UTF-8 string."""
        length = self.u64(f"length of {what}")
        if length > max_bytes:
            self.fail(f"{what} has {length} bytes; at most {max_bytes} are allowed")
        self.need(length, what)
        raw = self.data[self.position : self.position + length]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8: {error}")
        self.position += length
        return text
