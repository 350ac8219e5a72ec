"""Read-only mapping of a file into memory."""

from __future__ import annotations

import mmap
from pathlib import Path

from backends.errors import ModelError
from backends.weights.regular_file import open_regular


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
