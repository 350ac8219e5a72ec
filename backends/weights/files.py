"""Opens files that others wrote: regular files only, mapped read-only, JSON with a size limit, pickles never."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from backends.errors import ModelError


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises `ModelError` for anything else; a pipe would block without end."""
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path}: not a regular file")
        return path.open("rb")
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file or folder") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL byte
        raise ModelError(f"{path}: cannot be read: {error}") from error


def map_file(path: Path, *, min_bytes: int) -> mmap.mmap:
    """Map a whole regular file. Raises `ModelError` if it cannot be read or is shorter than `min_bytes` (> 0)."""
    with open_regular(path) as file:
        size = file.seek(0, 2)
        if size < min_bytes:
            raise ModelError(f"{path}: truncated: {size} bytes, expected at least {min_bytes}")
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be mapped: {error}") from error


T = TypeVar("T")

_MAX_BYTES = 1 << 26


def read_json(path: Path, type_: type[T]) -> T:
    """Decode a whole file. Raises `ModelError` naming the file and, inside it, the field at fault."""
    with open_regular(path) as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ModelError(f"{path}: larger than {_MAX_BYTES} bytes")
    return decode_json(raw, type_, where=str(path))


def decode_json(raw: bytes, type_: type[T], *, where: str) -> T:
    """Decode bytes. Raises `ModelError` that begins with `where`."""
    try:
        return msgspec.json.decode(raw, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{where}: {error}") from error


PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PICKLE_ADVICE = (
    "pickled weights can run code and are never loaded; convert to safetensors (`save_pretrained` of transformers "
    "writes it) or to GGUF (`convert_hf_to_gguf.py` of llama.cpp)"
)

_ZIP = b"PK\x03\x04"  # torch.save since 1.6 writes a zip archive
_PICKLE_PROTOCOLS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def looks_pickled(name: str, head: bytes) -> bool:
    """True if a file name or its first bytes are those of pickled weights."""
    return name.endswith(PICKLE_SUFFIXES) or head.startswith((_ZIP, *_PICKLE_PROTOCOLS))
