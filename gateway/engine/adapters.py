"""The adapters that a `Load` names, read for the runner that is to apply them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from adapters import Adapter, read_peft
from backends.api import LoadableModel, ModelInfo, RunnerCapabilities
from backends.errors import UnsupportedModel
from gateway.engine.messages import AdapterFile, Ready

_SHOWN_DIGITS = 12


def read_adapters(
    files: Iterable[AdapterFile], runner: str, capabilities: RunnerCapabilities, model: LoadableModel, info: ModelInfo
) -> dict[str, Adapter]:
    """Adapters by name, all of them in memory. Raises `UnsupportedModel` where the runner cannot apply any, and
    `AdapterError` for one that is unsound or does not fit.
    """
    listed = list(files)
    if listed:
        _check_capabilities(runner, capabilities, model, info)
    return {
        file.name: read_peft(Path(file.path), shapes=info.lora_shapes, max_rank=capabilities.lora_max_rank)
        for file in listed
    }


def with_adapters(ready: Ready, adapters: Mapping[str, Adapter]) -> Ready:
    """What the gateway is told, and for operators a line each, by which they know the content again."""
    notes = tuple(_note(name, adapter) for name, adapter in adapters.items())
    return msgspec.structs.replace(ready, adapters=tuple(adapters), notes=(*ready.notes, *notes))


def _check_capabilities(runner: str, capabilities: RunnerCapabilities, model: LoadableModel, info: ModelInfo) -> None:
    if not capabilities.lora_slots or not info.lora_shapes:
        raise UnsupportedModel(
            f"runner {runner} on {info.device} applies no LoRA adapters; remove those of this model, or serve it "
            "with backend onnx on the CPU, with Hostelry's kernels and without exact"
        )
    if set(capabilities.formats) <= set(capabilities.lora_formats):
        return
    found = {model.tensors[name].format for name in info.lora_shapes} - set(capabilities.lora_formats)
    if found:
        raise UnsupportedModel(
            f"runner {runner} applies no LoRA adapters beside weights in {', '.join(sorted(found))}; "
            f"serve the base in {', '.join(capabilities.lora_formats)}, or remove its adapters"
        )


def _note(name: str, adapter: Adapter) -> str:
    weights = adapter.weights
    num_bytes = sum(a.nbytes + b.nbytes for a, b in weights.matrices.values())
    return (
        f"adapter {name}: rank {weights.rank}, {len(weights.matrices)} linears, {num_bytes / 1e6:.1f} MB, "
        f"sha256 {adapter.digest[:_SHOWN_DIGITS]}"
    )
