"""GGUF files put together by hand, so that every byte can be wrong."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, value_type: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", value_type) + value


def array(item_type: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", item_type, count) + items


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the tensor table; sixteen F32 elements at offset 0 by default."""

    name: str | bytes = "t"
    dims: tuple[int, ...] = (4, 4)
    num_dims: int | None = None
    ggml_type: int = 0
    offset: int = 0

    def to_bytes(self) -> bytes:
        count = len(self.dims) if self.num_dims is None else self.num_dims
        head = text(self.name) + struct.pack("<I", count)
        return head + struct.pack(f"<{len(self.dims)}Q", *self.dims) + struct.pack("<IQ", self.ggml_type, self.offset)


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file, sound by default: one tensor and one pair."""

    magic: bytes = b"GGUF"
    version: int = 3
    pairs: tuple[bytes, ...] = (pair("general.architecture", 8, text("llama")),)
    tensors: tuple[Tensor, ...] = (Tensor(),)
    num_pairs: int | None = None
    num_tensors: int | None = None
    alignment: int = 32
    data_bytes: int = 64

    def to_bytes(self) -> bytes:
        num_tensors = len(self.tensors) if self.num_tensors is None else self.num_tensors
        num_pairs = len(self.pairs) if self.num_pairs is None else self.num_pairs
        table = self.magic + struct.pack("<IQQ", self.version, num_tensors, num_pairs)
        table += b"".join(self.pairs) + b"".join(tensor.to_bytes() for tensor in self.tensors)
        return table + bytes(-len(table) % self.alignment) + bytes(self.data_bytes)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path
