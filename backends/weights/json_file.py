"""JSON files of a model folder, read with a size limit into typed structs."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from backends.errors import ModelError
from backends.weights.regular_file import open_regular

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
