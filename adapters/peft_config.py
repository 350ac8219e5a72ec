"""Fields of `adapter_config.json`: used, ignored, or required to be off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from adapters.modules import AdapterError, UnsupportedAdapter

CONFIG_FILE = "adapter_config.json"

_USED = frozenset({"peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"})
_FOR_TRAINING = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "target_modules",
        "task_type",
    }
)
"""Fields on the training or the modules, which the tensors show themselves. (peft 0.21, `LoraConfig`.)"""
_LEAVE_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Accepted values of `init_lora_weights`: the others train on a base from which something was taken away."""
_REASONS = {
    "use_dora": "DoRA scales the base's own rows",
    "lora_bias": "biases are not adapted here",
    "modules_to_save": "whole modules are not replaced here",
    "rank_pattern": "all linears of an adapter have one rank here",
    "alpha_pattern": "all linears of an adapter have one alpha here",
    "fan_in_fan_out": "weights that lie the other way round belong to none of the families here",
    "trainable_token_indices": "embeddings are not adapted here",
}


class PeftConfig(msgspec.Struct, frozen=True):
    """The fields that are computed with, under their names in the file."""

    r: int
    lora_alpha: float
    use_rslora: bool | None = None

    @property
    def scale(self) -> float:
        """Scale of BA. rsLoRA: Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def peft_config(fields: Mapping[str, Any], *, where: Path, max_rank: int) -> PeftConfig:  # Any: a foreign file
    """Check and convert the fields. Raises `AdapterError`, and `UnsupportedAdapter` for a set but unsupported field."""
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise UnsupportedAdapter(f"{where}: peft_type is {kind!r}; only LORA adapters are served")
    _refuse_what_is_not_done(fields, where)
    try:
        config = msgspec.convert({name: fields[name] for name in _USED & fields.keys()}, PeftConfig)
    except msgspec.ValidationError as error:
        raise AdapterError(f"{where}: {error}; save the adapter again with `save_pretrained` of peft") from error
    if not 1 <= config.r <= max_rank:
        raise AdapterError(f"{where}: rank r is {config.r}; this engine takes 1 to {max_rank}: retrain with another r")
    if not config.lora_alpha > 0 or not 0 < _as_float32(config.scale) < math.inf:
        raise AdapterError(
            f"{where}: lora_alpha {config.lora_alpha:g} gives the scale {config.scale:g}; it must be positive and "
            "finite, or the adapter does nothing or the opposite: set the lora_alpha it was trained with"
        )
    return config


def _refuse_what_is_not_done(fields: Mapping[str, Any], where: Path) -> None:  # Any: a foreign file
    if fields.get("bias", "none") != "none":
        raise UnsupportedAdapter(f'{where}: bias is {fields["bias"]!r}; only "none" is served: retrain without biases')
    initial = fields.get("init_lora_weights", True)
    if not any(initial is known or (isinstance(initial, str) and initial == known) for known in _LEAVE_THE_BASE):
        raise UnsupportedAdapter(
            f"{where}: init_lora_weights is {initial!r}, which changes the base as well; save it as plain LoRA with "
            "`path_initial_model_for_weight_conversion` of peft"
        )
    for name, value in fields.items():
        if name in _USED or name in _FOR_TRAINING or value in (None, False, "", [], {}):
            continue
        reason = _REASONS.get(name, "nothing here knows what that changes")
        raise UnsupportedAdapter(f"{where}: {name} is set, and {reason}; retrain without it")


def _as_float32(value: float) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))
