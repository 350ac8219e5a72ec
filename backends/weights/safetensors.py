"""Safetensors files and folders, checked completely before anything is mapped.

    u64 header bytes | header JSON {name: {dtype, shape, data_offsets: [begin, end]}} | data, without holes

Layout and rules after the format's README (huggingface/safetensors).
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from backends.errors import ModelError, UnsupportedModel
from backends.weights.files import decode_json, map_file, read_json
from backends.weights.formats import bytes_per_row
from backends.weights.tensor import StoredTensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000  # the reference reader's limit
_MAX_DIMS = 8
_MAX_NAME_LENGTH = 1024
_DTYPES = ("F32", "F16", "BF16")
_METADATA_KEY = "__metadata__"


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def read_safetensors_folder(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` lists."""
    if (folder / SINGLE_FILE).exists():
        return read_safetensors(folder / SINGLE_FILE)
    index_path = folder / INDEX_FILE
    weight_map = read_json(index_path, _Index).weight_map
    shards: Mapping[str, dict[str, StoredTensor]] = {
        shard: read_safetensors(folder / _plain_name(index_path, shard)) for shard in sorted(set(weight_map.values()))
    }
    tensors: dict[str, StoredTensor] = {}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise ModelError(f"{folder / shard}: tensor {name!r} is missing, though {INDEX_FILE} places it here")
        tensors[name] = shards[shard][name]
    return tensors


def _plain_name(index_path: Path, shard: str) -> str:
    if not shard.endswith(".safetensors") or any(character in shard for character in "/\\:\0"):
        raise ModelError(f"{index_path}: shard {shard!r} is not the plain name of a .safetensors file in this folder")
    return shard


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Tensors of one file by stored name, as views of the mapped file; values are not read.

    Raises `ModelError` for damage and `UnsupportedModel` for element types other than F32, F16 and BF16.
    """
    data = map_file(path, min_bytes=_LENGTH.size + len("{}"))
    (header_bytes,) = _LENGTH.unpack_from(data)
    most = min(_MAX_HEADER_BYTES, len(data) - _LENGTH.size)
    if header_bytes > most:
        raise ModelError(f"{path}: the header announces {header_bytes} bytes; at most {most} are possible here")
    start = _LENGTH.size + header_bytes
    entries = _read_entries(path, data[_LENGTH.size : start])
    _check_ranges(path, entries, data_bytes=len(data) - start)
    return {name: _view(data, name, entry, start) for name, entry in entries.items()}


def _read_entries(path: Path, header: bytes) -> dict[str, _Entry]:
    raw_entries = decode_json(header, dict[str, msgspec.Raw], where=f"{path}: header")
    raw_metadata = raw_entries.pop(_METADATA_KEY, None)
    if raw_metadata is not None:
        decode_json(bytes(raw_metadata), dict[str, str], where=f"{path}: {_METADATA_KEY}")
    entries: dict[str, _Entry] = {}
    for name, raw in raw_entries.items():
        entries[name] = decode_json(bytes(raw), _Entry, where=f"{path}: tensor {name!r}")
        _check_entry(path, name, entries[name])
    return entries


def _check_entry(path: Path, name: str, entry: _Entry) -> None:
    if len(name) > _MAX_NAME_LENGTH:
        raise ModelError(f"{path}: a tensor name of {len(name)} characters; at most {_MAX_NAME_LENGTH} are allowed")
    if entry.dtype not in _DTYPES:
        raise UnsupportedModel(f"{path}: tensor {name!r} has dtype {entry.dtype}; supported are {', '.join(_DTYPES)}")
    if len(entry.shape) > _MAX_DIMS or any(size <= 0 for size in entry.shape):
        raise ModelError(f"{path}: tensor {name!r} has shape {list(entry.shape)}; every size must be positive")
    begin, end = entry.data_offsets
    expected = math.prod(entry.shape) * bytes_per_row(entry.dtype, 1)
    if begin < 0 or end - begin != expected:
        raise ModelError(
            f"{path}: tensor {name!r} of shape {list(entry.shape)} and dtype {entry.dtype} needs {expected} bytes; "
            f"data_offsets {begin} to {end} hold {end - begin}"
        )


def _check_ranges(path: Path, entries: dict[str, _Entry], *, data_bytes: int) -> None:
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if begin != position:
            relation = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            raise ModelError(f"{path}: tensor {name!r} starts at {begin}, expected {position}: it {relation}")
        if end > data_bytes:
            raise ModelError(
                f"{path}: tensor {name!r} occupies bytes {begin} to {end} of the tensor data, "
                f"but the file holds only {data_bytes}; it is truncated or damaged"
            )
        position = end
    if position != data_bytes:
        raise ModelError(f"{path}: {data_bytes - position} bytes after the last tensor belong to none")


def _view(data: mmap.mmap, name: str, entry: _Entry, start: int) -> StoredTensor:
    begin, end = entry.data_offsets
    raw = np.frombuffer(data, np.uint8, count=end - begin, offset=start + begin)
    return StoredTensor(name, entry.dtype, entry.shape, raw.reshape(math.prod(entry.shape[:-1]), -1))
