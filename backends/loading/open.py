"""Opens a model: a Hugging Face folder (config.json and safetensors) or a GGUF file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from backends.api import LoadableModel
from backends.errors import ModelError
from backends.loading.canonical import canonical_tensors, plus_one
from backends.models.families import family_of, spec_from_config, spec_from_metadata
from backends.models.families.fields import MAX_HEAD_DIM
from backends.models.families.gguf import ROPE_FACTORS, SHORT_ROPE_FACTORS
from backends.models.spec import ModelSpec
from backends.weights.files import PICKLE_ADVICE, PICKLE_SUFFIXES, looks_pickled, open_regular, read_json
from backends.weights.gguf import GgufFile, narrowed, read_gguf
from backends.weights.rotary import HalfSplitSource
from backends.weights.safetensors import INDEX_FILE, SINGLE_FILE, read_safetensors_folder
from backends.weights.tensor import decode

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


def open_gguf(path: Path) -> LoadableModel:
    """Open and check a GGUF file; weights stay as they are stored."""
    file = read_gguf(path)
    model = spec_from_metadata(
        file.metadata,
        tensor_names=file.tensors.keys(),
        rope_factors=_rope_factors(file, ROPE_FACTORS),
        short_rope_factors=_rope_factors(file, SHORT_ROPE_FACTORS),
        where=str(path),
    )
    tensors = narrowed(canonical_tensors(file.tensors, model.spec, model.naming, where=str(path)))
    if not model.interleaved_rotary:
        return LoadableModel(spec=model.spec, tensors=tensors)
    return LoadableModel(
        spec=model.spec, tensors=HalfSplitSource(tensors, num_heads=_heads_by_tensor(model.spec, tensors.keys()))
    )


def _rope_factors(file: GgufFile, name: str) -> list[float] | None:
    tensor = file.tensors.get(name)
    if tensor is None:
        return None
    if len(tensor.shape) != 1 or tensor.shape[0] > MAX_HEAD_DIM:
        raise ModelError(f"{file.path}: tensor {name!r} has shape {list(tensor.shape)}; expected [head_dim / 2]")
    values: list[float] = decode(tensor).reshape(-1).tolist()
    return values


def _heads_by_tensor(spec: ModelSpec, names: Collection[str]) -> dict[str, int]:
    """The tensors whose rows belong to rotary heads → their number of heads."""
    heads = {"q": spec.num_heads, "q.bias": spec.num_heads, "k": spec.num_kv_heads, "k.bias": spec.num_kv_heads}
    candidates = {f"layers.{i}.{name}": count for i in range(spec.num_layers) for name, count in heads.items()}
    return {name: count for name, count in candidates.items() if name in names}


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
