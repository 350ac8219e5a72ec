"""PEFT folders, sound ones and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Array = npt.NDArray[Any]  # Any: float32, float16 or bfloat16
Tensors = dict[str, Array]
Fields = dict[str, Any]  # Any: JSON

SHAPES = {
    f"layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {
        "q": (16, 12),
        "k": (8, 12),
        "v": (8, 12),
        "o": (12, 16),
        "gate": (20, 12),
        "up": (20, 12),
        "down": (12, 20),
    }.items()
}
RANK = 4
MODULES = {
    "self_attn.q_proj": (16, 12),
    "self_attn.k_proj": (8, 12),
    "self_attn.v_proj": (8, 12),
    "self_attn.o_proj": (12, 16),
    "mlp.gate_proj": (20, 12),
    "mlp.up_proj": (20, 12),
    "mlp.down_proj": (12, 20),
}


def stored(module: str, matrix: str, *, layer: int = 0) -> str:
    return f"base_model.model.model.layers.{layer}.{module}.lora_{matrix}.weight"


def sound_tensors(modules: dict[str, tuple[int, int]] | None = None) -> Tensors:
    draw = np.random.default_rng(0)
    tensors: Tensors = {}
    for layer in range(2):
        for module, (outputs, inputs) in (modules or MODULES).items():
            tensors[stored(module, "A", layer=layer)] = draw.standard_normal((RANK, inputs), np.float32)
            tensors[stored(module, "B", layer=layer)] = draw.standard_normal((outputs, RANK), np.float32)
    return tensors


def sound_fields() -> Fields:
    return {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"]}


def write_adapter(
    folder: Path,
    *,
    tensors: Tensors | None = None,
    fields: Fields | None = None,
    change: Callable[[Tensors, Fields], None] | None = None,
) -> Path:
    """A sound adapter, unless `change` has its way with it."""
    tensors, fields = tensors or sound_tensors(), fields or sound_fields()
    if change is not None:
        change(tensors, fields)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def as_dtype(tensors: Tensors, dtype: str) -> Tensors:
    kind = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[dtype]
    return {name: np.ascontiguousarray(array.astype(kind)) for name, array in tensors.items()}
