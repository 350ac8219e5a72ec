"""A name for the quantized copy of a model, by which an existing one is found again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from backends.errors import ModelError
from backends.quantize.recipes import recipe_by_name

_WRITER_VERSION = 1
"""Version to raise when the same source and format give other bytes than before."""


class _FileIdentity(msgspec.Struct, frozen=True):
    name: str
    num_bytes: int
    modified_ns: int


class _Identity(msgspec.Struct, frozen=True, kw_only=True):
    writer: int
    format: str
    pure: bool
    path: str
    files: tuple[_FileIdentity, ...]
    importance: tuple[_FileIdentity, ...]


def quantized_name(source: Path, *, format: str, pure: bool = False, importance: Path | None = None) -> str:
    """`STEM-FORMAT-DIGEST.gguf`; another digest as soon as a file of the source changes in size or time.

    No content is read. Raises `ModelError` for a source that is not there and `UnknownFormat`.
    """
    recipe = recipe_by_name(format, pure=pure)
    path = source.resolve()
    identity = _Identity(
        writer=_WRITER_VERSION,
        format=recipe.name,
        pure=recipe.pure,
        path=str(path),
        files=_files(path),
        importance=() if importance is None else _files(importance.resolve()),
    )
    digest = hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:16]
    return f"{path.name.removesuffix('.gguf')}-{recipe.name}-{digest}.gguf"


def _files(path: Path) -> tuple[_FileIdentity, ...]:
    try:
        files = sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]
        return tuple(_FileIdentity(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
