"""Fuzz targets: bytes become a file, a reader opens it, and only `ModelError` may be raised."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from backends.errors import ModelError
from backends.loading import open_model
from backends.weights.gguf import read_gguf
from backends.weights.safetensors import read_safetensors

CORPUS = Path(__file__).parent / "corpus"


def fuzz_gguf(data: bytes) -> None:
    """The reader, then everything that opening a model does with what was read."""
    _feed(data, "model.gguf", lambda path: (read_gguf(path), open_model(path)))


def fuzz_safetensors(data: bytes) -> None:
    _feed(data, "model.safetensors", read_safetensors)


def _feed(data: bytes, name: str, read: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        path.write_bytes(data)
        try:
            read(path)
        except ModelError as error:
            if not str(error):
                raise RuntimeError("an error without a message") from error


TARGETS: dict[str, Callable[[bytes], None]] = {"gguf": fuzz_gguf, "safetensors": fuzz_safetensors}
