"""Header and metadata pairs of a GGUF file."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from backends.errors import UnsupportedModel
from backends.weights.files import map_file
from backends.weights.gguf.cursor import Cursor

MetadataValue = bool | int | float | str | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]
Metadata = Mapping[str, MetadataValue]

HEADER_BYTES = 24
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_BIG_ENDIAN_VERSIONS = tuple(version << 24 for version in _VERSIONS)

# Far above any real model, and small enough that a hostile file cannot make the reader work for long.
_MAX_PAIRS = 1 << 16
_MAX_TENSORS = 1 << 16
_MAX_KEY_BYTES = 1 << 10
_MAX_STRING_BYTES = 1 << 24
_MAX_ARRAY_LENGTH = 1 << 24
_MIN_PAIR_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8

# `enum gguf_metadata_value_type`: number → struct code of scalars.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_ITEM_BYTES = {code: struct.calcsize("<" + letter) for code, letter in _SCALARS.items()} | {_STRING: 8}


def read_metadata(path: Path) -> dict[str, MetadataValue]:
    """The metadata pairs alone; arrays become tuples. Raises `ModelError`; tensors are not looked at."""
    with map_file(path, min_bytes=HEADER_BYTES) as data:
        cursor = Cursor(data, path)
        _, num_pairs = read_header(cursor)
        return read_pairs(cursor, num_pairs)


def read_header(cursor: Cursor) -> tuple[int, int]:
    """Check magic, version and counts; returns (number of tensors, number of pairs)."""
    magic = cursor.data[:4]
    if magic != _MAGIC:
        cursor.fail(f"not a GGUF file: it starts with {magic!r}, expected {_MAGIC!r}")
    cursor.position = 4
    version = cursor.u32("version")
    if version in _BIG_ENDIAN_VERSIONS:
        raise UnsupportedModel(f"{cursor.path}: big-endian GGUF is not supported; convert it to little-endian")
    if version not in _VERSIONS:
        raise UnsupportedModel(f"{cursor.path}: GGUF version {version} is not supported; expected 2 or 3")
    num_tensors = cursor.u64("number of tensors")
    num_pairs = cursor.u64("number of metadata pairs")
    _check_count(cursor, num_tensors, "tensors", limit=_MAX_TENSORS, min_bytes=_MIN_TENSOR_BYTES)
    _check_count(cursor, num_pairs, "metadata pairs", limit=_MAX_PAIRS, min_bytes=_MIN_PAIR_BYTES)
    return num_tensors, num_pairs


def _check_count(cursor: Cursor, count: int, what: str, *, limit: int, min_bytes: int) -> None:
    most = min(limit, cursor.remaining // min_bytes)
    if count > most:
        cursor.fail(f"the header announces {count} {what}; a file of {len(cursor.data)} bytes holds at most {most}")


def read_pairs(cursor: Cursor, num_pairs: int) -> dict[str, MetadataValue]:
    """All metadata pairs. Raises `ModelError` for damage, duplicate keys and nested arrays."""
    pairs: dict[str, MetadataValue] = {}
    for _ in range(num_pairs):
        key = cursor.string("metadata key", max_bytes=_MAX_KEY_BYTES)
        if not key or key in pairs:
            cursor.fail(f"metadata key {key!r} is empty or appears twice")
        pairs[key] = _read_value(cursor, key)
    return pairs


def _read_value(cursor: Cursor, key: str) -> MetadataValue:
    value_type = cursor.u32(f"type of {key!r}")
    if value_type == _STRING:
        return cursor.string(repr(key), max_bytes=_MAX_STRING_BYTES)
    if value_type == _ARRAY:
        return _read_array(cursor, key)
    if value_type not in _SCALARS:
        cursor.fail(f"{key!r} has value type {value_type}; expected 0 to 12")
    return _read_numbers(cursor, key, value_type, count=1)[0]


def _read_array(cursor: Cursor, key: str) -> MetadataValue:
    item_type = cursor.u32(f"item type of {key!r}")
    if item_type == _ARRAY:
        cursor.fail(f"{key!r} is an array of arrays, which no model needs")
    if item_type not in _ITEM_BYTES:
        cursor.fail(f"{key!r} is an array of value type {item_type}; expected 0 to 12")
    count = cursor.u64(f"length of {key!r}")
    if count > _MAX_ARRAY_LENGTH:
        cursor.fail(f"{key!r} has {count} items; at most {_MAX_ARRAY_LENGTH} are allowed")
    cursor.need(count * _ITEM_BYTES[item_type], f"array {key!r} of {count} items")
    if item_type == _STRING:
        return tuple(cursor.string(repr(key), max_bytes=_MAX_STRING_BYTES) for _ in range(count))
    return _read_numbers(cursor, key, item_type, count=count)


def _read_numbers(cursor: Cursor, key: str, item_type: int, *, count: int) -> tuple[bool | int | float, ...]:
    if item_type == _BOOL:
        return _read_bools(cursor, key, count)
    return cursor.unpack(struct.Struct(f"<{count}{_SCALARS[item_type]}"), repr(key))


def _read_bools(cursor: Cursor, key: str, count: int) -> tuple[bool, ...]:
    cursor.need(count, repr(key))
    raw = cursor.data[cursor.position : cursor.position + count]
    if raw.translate(None, b"\x00\x01"):
        cursor.fail(f"{key!r} holds a boolean that is neither 0 nor 1")
    cursor.position += count
    return tuple(map(bool, raw))
