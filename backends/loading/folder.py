"""A Hugging Face model folder: config.json and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.api import LoadableModel
from backends.errors import ModelError
from backends.loading.canonical import canonical_tensors
from backends.loading.norms import plus_one
from backends.loading.pickles import PICKLE_ADVICE, PICKLE_SUFFIXES
from backends.models.families import family_of, spec_from_config
from backends.weights.json_file import read_json
from backends.weights.safetensors import INDEX_FILE, SINGLE_FILE, read_safetensors_folder

_ADAPTER_CONFIG = "adapter_config.json"


def open_folder(folder: Path) -> LoadableModel:
    """Open and check a folder. Only JSON and safetensors are read; code in it is never looked at."""
    _check_contents(folder)
    config = _read_object(folder / "config.json")
    generation_path = folder / "generation_config.json"
    generation = _read_object(generation_path) if generation_path.exists() else {}
    spec = spec_from_config(config, generation, where=str(folder))
    stored = read_safetensors_folder(folder)
    # A tied checkpoint may repeat its embedding as the head; like its authors' code, we use the embedding.
    family = family_of(config, str(folder))
    ignored = (family.naming.stored_name("head"),) if spec.tied_head else ()
    tensors = canonical_tensors(stored, spec, family.naming, where=str(folder), ignored=ignored)
    return LoadableModel(spec=spec, tensors=plus_one(tensors) if family.is_gemma else tensors)


def _read_object(path: Path) -> dict[str, Any]:  # a foreign file with open keys; `Fields` checks what is used
    return read_json(path, dict[str, Any])


def _check_contents(folder: Path) -> None:
    """Explain the usual ways in which a folder is not a model."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read: {error}") from error
    if not names:
        raise ModelError(f"{folder}: the folder is empty; expected config.json and {SINGLE_FILE}")
    ggufs = sorted(name for name in names if name.endswith(".gguf"))
    if "config.json" not in names and ggufs:
        raise ModelError(f"{folder}: name the GGUF file itself, such as {folder / ggufs[0]}")
    if "config.json" not in names and _ADAPTER_CONFIG in names:
        raise ModelError(f"{folder}: this is a LoRA adapter, not a model; name its base model here")
    if "config.json" not in names:
        raise ModelError(f"{folder}: config.json is missing; expected config.json and {SINGLE_FILE}")
    if SINGLE_FILE in names or INDEX_FILE in names:
        return
    pickles = sorted(name for name in names if name.endswith(PICKLE_SUFFIXES))
    if pickles:
        raise ModelError(f"{folder / pickles[0]}: {PICKLE_ADVICE}")
    raise ModelError(f"{folder}: no weights; expected {SINGLE_FILE} or {INDEX_FILE}")
