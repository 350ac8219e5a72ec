"""LoRA adapters as PEFT writes them, and what a base is with one merged in. Shares no code with the product."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from e2e.harness.forward import F32, Llama, read_llama
from e2e.harness.nonce import SEED
from e2e.harness.reference import Reference

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_STRENGTH = 0.5
"""Size of the adapter's part relative to the base's own weights: enough to change every answer."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter to be drawn at random; `fill` is the content of B."""

    rank: int
    alpha: float
    modules: tuple[str, ...] = ATTENTION + MLP
    rslora: bool = False
    fill: Literal["random", "zero"] = "random"

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def make_adapter(folder: Path, recipe: Recipe, *, base: Llama, seed: int) -> Path:
    """A folder with adapter_config.json and adapter_model.safetensors for every layer of `base`."""
    draw = np.random.default_rng([SEED, seed])
    tensors: dict[str, F32] = {}
    for layer in range(base.sizes.layers):
        for module in recipe.modules:
            name = f"model.layers.{layer}.{module}"
            outputs, inputs = base.weights[f"{name}.weight"].shape
            deviation = 0.0 if recipe.fill == "zero" else _STRENGTH / (recipe.scale * math.sqrt(recipe.rank))
            a: F32 = draw.standard_normal((recipe.rank, inputs), np.float32) / np.float32(math.sqrt(inputs))  # ty: ignore[invalid-assignment]  # float32 stays float32
            b = draw.standard_normal((outputs, recipe.rank), np.float32) * np.float32(deviation)
            tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(_fields(recipe)))
    return folder


def adapted(folder: Path, adapter: Path | None, *, weights: Path | None = None) -> Reference:
    """Reference of a folder's model with an adapter: every W is W + scale B A. `weights`: another file's."""
    reference = Reference(folder)
    base = reference.model if weights is None else read_llama(weights)
    reference.model = base if adapter is None else merged(base, adapter)
    return reference


def merged(base: Llama, adapter: Path) -> Llama:
    fields: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text())  # Any: JSON of a foreign format
    rank = fields["r"]
    scale = np.float32(fields["lora_alpha"] / (math.sqrt(rank) if fields["use_rslora"] else rank))
    stored = load_file(adapter / "adapter_model.safetensors")
    weights = dict(base.weights)
    for name in {name.rpartition(".lora_")[0] for name in stored}:
        own = f"{name.removeprefix('base_model.model.')}.weight"
        weights[own] = weights[own] + scale * (stored[f"{name}.lora_B.weight"] @ stored[f"{name}.lora_A.weight"])
    return Llama(base.sizes, weights)


def _fields(recipe: Recipe) -> dict[str, object]:
    """Relevant fields of those that `LoraConfig.save_pretrained` of peft 0.21 writes."""
    return {
        "base_model_name_or_path": "random",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": recipe.rank,
        "rank_pattern": {},
        "target_modules": sorted(module.partition(".")[2] for module in recipe.modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": recipe.rslora,
    }
