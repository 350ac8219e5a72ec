"""Reads a directory written by peft's `save_pretrained`: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from adapters.modules import AdapterError, LinearPlace, place_of
from adapters.peft_config import CONFIG_FILE, peft_config
from backends.api import F32, AdapterWeights
from backends.weights.files import read_json
from backends.weights.safetensors import read_safetensors
from backends.weights.tensor import StoredTensor, decode

WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLE_FILE = "adapter_model.bin"

LoraShapes = Mapping[str, tuple[int, int]]
"""Canonical linear → (output, input) features, as in `ModelInfo.lora_shapes`."""


class Adapter(msgspec.Struct, frozen=True):
    """Weights for a runner, and SHA-256 in hex over the configuration and all tensors, which identifies the content."""

    weights: AdapterWeights
    digest: str


def read_peft(folder: Path, *, shapes: LoraShapes, max_rank: int) -> Adapter:
    """Read and check everything; nothing refers to the files afterwards.

    Raises `AdapterError` (a `ModelError`) for whatever would make it another adapter than the one that was trained:
    each tensor of the file is used, or is an error.
    """
    _check_contents(folder)
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    fields = read_json(config_path, dict[str, Any])  # Any: a foreign file, checked below
    config = peft_config(fields, where=config_path, max_rank=max_rank)
    stored = read_safetensors(weights_path)
    if not stored:
        raise AdapterError(f"{weights_path}: holds no tensors; save the adapter again with `save_pretrained` of peft")
    tensors = {place_of(name, where=weights_path): tensor for name, tensor in stored.items()}
    matrices: dict[str, tuple[F32, F32]] = {}
    for place in sorted(tensors):
        _require(place.other(), tensors, weights_path)
        if place.matrix == "B":
            continue
        pair = _pair(place, tensors, shapes, rank=config.r, where=weights_path)
        matrices |= _cut(place, *pair, shapes, taken=matrices, where=weights_path)
    weights = AdapterWeights(rank=config.r, scale=config.scale, matrices=matrices)
    return Adapter(weights, _digest(fields, stored))


def _check_contents(folder: Path) -> None:
    """Explain the usual ways in which a folder is not an adapter."""
    if not folder.is_dir():
        raise AdapterError(f"{folder}: no such directory; name the directory that contains {CONFIG_FILE}")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        _check_inside(folder, name)
    if not (folder / CONFIG_FILE).exists():
        has_model = (folder / "config.json").exists()
        hint = "this is a model, not an adapter" if has_model else f"expected {CONFIG_FILE} and {WEIGHTS_FILE}"
        raise AdapterError(f"{folder}: {CONFIG_FILE} is missing; {hint}")
    if (folder / WEIGHTS_FILE).exists():
        return
    if (folder / _PICKLE_FILE).exists():
        raise AdapterError(
            f"{folder / _PICKLE_FILE}: pickled weights can run code and are never loaded; save the adapter again with "
            "`save_pretrained(…, safe_serialization=True)` of peft"
        )
    raise AdapterError(f"{folder}: {WEIGHTS_FILE} is missing; save the adapter with `save_pretrained` of peft")


def _check_inside(folder: Path, name: str) -> None:
    """Allow links to the blobs of a hub's cache, and nowhere else outside the directory."""
    home, real = folder.resolve(), (folder / name).resolve()
    roots = (home, home.parents[1] / "blobs") if home.parent.name == "snapshots" else (home,)
    if not any(real.is_relative_to(root) for root in roots):
        raise AdapterError(f"{folder / name}: leads out of the folder to {real}; put a copy in its place")


def _require(place: LinearPlace, tensors: Mapping[LinearPlace, StoredTensor], where: Path) -> None:
    if place not in tensors:
        raise AdapterError(
            f"{where}: tensor {place.stored_name!r} is missing, but its other half is there; the file is incomplete"
        )


def _pair(
    place: LinearPlace, tensors: Mapping[LinearPlace, StoredTensor], shapes: LoraShapes, *, rank: int, where: Path
) -> tuple[F32, F32]:
    """A and B of a module, in the shapes that the base implies."""
    absent = [name for name in place.linears if name not in shapes]
    if absent:
        raise AdapterError(
            f"{where}: tensor {place.stored_name!r} adapts {absent[0]}, which this base or its engine has no place "
            f"for; it was trained for another base, or needs other target_modules"
        )
    outputs, inputs = sum(shapes[name][0] for name in place.linears), shapes[place.linears[0]][1]
    a = _values(tensors[place], place, (rank, inputs), where)
    b = _values(tensors[place.other()], place.other(), (outputs, rank), where)
    return a, b


def _values(tensor: StoredTensor, place: LinearPlace, expected: tuple[int, int], where: Path) -> F32:
    if tensor.shape != expected:
        raise AdapterError(
            f"{where}: tensor {place.stored_name!r} has shape {list(tensor.shape)}; this base and r imply "
            f"{list(expected)}: it was trained for another base, or {CONFIG_FILE} belongs to another adapter"
        )
    values = np.array(decode(tensor), np.float32, order="C")  # a copy: the file may go
    if not np.isfinite(values).all():
        raise AdapterError(
            f"{where}: tensor {place.stored_name!r} holds values that are not finite; train it again or take an "
            "earlier checkpoint"
        )
    return values


def _cut(
    place: LinearPlace, a: F32, b: F32, shapes: LoraShapes, *, taken: Mapping[str, object], where: Path
) -> dict[str, tuple[F32, F32]]:
    """A fused module is several linears over one input: they share A, and each has its rows of B."""
    cut: dict[str, tuple[F32, F32]] = {}
    start = 0
    for name in place.linears:
        if name in taken:
            raise AdapterError(f"{where}: {name} is adapted twice, once within {place.module}; keep one of the two")
        end = start + shapes[name][0]
        cut[name] = (a, b[start:end])
        start = end
    return cut


def _digest(fields: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> str:  # Any: a foreign file
    digest = hashlib.sha256(msgspec.json.encode(fields, order="sorted"))
    for name in sorted(stored):
        tensor = stored[name]
        digest.update(repr((name, tensor.format, tensor.shape)).encode())
        digest.update(np.ascontiguousarray(tensor.data).data)
    return digest.hexdigest()
