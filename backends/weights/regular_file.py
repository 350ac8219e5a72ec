"""Opening files that others wrote."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

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
