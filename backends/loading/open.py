"""Which kind of model a path is."""

from __future__ import annotations

from pathlib import Path

from backends.api import LoadableModel
from backends.errors import ModelError
from backends.loading.folder import open_folder
from backends.loading.gguf_model import open_gguf
from backends.loading.pickles import PICKLE_ADVICE, looks_pickled
from backends.weights.regular_file import open_regular

_GGUF_MAGIC = b"GGUF"


def open_model(path: Path) -> LoadableModel:
    """Open a GGUF file or a Hugging Face folder (config.json and safetensors), checked completely.

    Files are mapped, not read: values are looked at only in vectors. Raises `ModelError` (damaged, truncated, unsafe,
    contradictory) or its subclass `UnsupportedModel`; messages name the file and the tensor or field.
    """
    if path.is_dir():
        return open_folder(path)
    with open_regular(path) as file:
        head = file.read(len(_GGUF_MAGIC))
    if head == _GGUF_MAGIC:
        return open_gguf(path)
    if looks_pickled(path.name, head):
        raise ModelError(f"{path}: {PICKLE_ADVICE}")
    if path.suffix == ".safetensors":
        raise ModelError(f"{path}: name the folder that holds this file and its config.json")
    raise ModelError(f"{path}: neither a GGUF file (it starts with {head!r}) nor a model folder")
