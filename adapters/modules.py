"""Maps tensors of an adapter to linears, and defines the errors of adapters that cannot be applied.

backends.errors.ModelError
└── AdapterError            damaged, unsafe, contradicts itself, or does not fit its base
    └── UnsupportedAdapter  sound, but there is no rule for it here
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, cast

import msgspec

from backends.errors import ModelError


class AdapterError(ModelError):
    """The adapter's files cannot be used with this base; the message names file, tensor or field, and a way out."""


class UnsupportedAdapter(AdapterError):
    """More than LoRA on the linears of a layer; without the rest, outputs would be those of another adapter."""


TARGETS = {
    "self_attn.q_proj": ("q",),
    "self_attn.k_proj": ("k",),
    "self_attn.v_proj": ("v",),
    "self_attn.qkv_proj": ("q", "k", "v"),
    "self_attn.o_proj": ("o",),
    "mlp.gate_proj": ("gate",),
    "mlp.up_proj": ("up",),
    "mlp.gate_up_proj": ("gate", "up"),
    "mlp.down_proj": ("down",),
}
"""Module within a layer → canonical linears, which follow one another in its rows."""
_NAME = re.compile(r"base_model\.model\.model\.layers\.(0|[1-9]\d{0,5})\.([a-z_]+\.[a-z_]+)\.lora_([AB])\.weight")
_REASONS = {
    "lora_embedding_": "embeddings are not adapted here",
    "lora_magnitude_vector": "DoRA is not served",
    "modules_to_save": "whole modules are not replaced here",
    ".bias": "biases are not adapted here",
}


class LinearPlace(msgspec.Struct, frozen=True, order=True):
    """Module of the base, and which of its two matrices."""

    layer: int
    module: str
    matrix: Literal["A", "B"]

    @property
    def linears(self) -> tuple[str, ...]:
        """Canonical names, in the order of the module's rows."""
        return tuple(f"layers.{self.layer}.{target}" for target in TARGETS[self.module])

    @property
    def stored_name(self) -> str:
        return f"base_model.model.model.layers.{self.layer}.{self.module}.lora_{self.matrix}.weight"

    def other(self) -> LinearPlace:
        return LinearPlace(self.layer, self.module, "B" if self.matrix == "A" else "A")


def place_of(stored_name: str, *, where: Path) -> LinearPlace:
    """Module and matrix of a tensor. Raises `UnsupportedAdapter` if it is no matrix of a linear within a layer."""
    match = _NAME.fullmatch(stored_name)
    if match is None:
        known = [reason for part, reason in _REASONS.items() if part in stored_name]
        reason = known[0] if known else "it is none of LoRA within a layer"
        raise UnsupportedAdapter(f"{where}: tensor {stored_name[:128]!r} would be left out: {reason}; retrain without")
    layer, module, matrix = match.groups()
    if module not in TARGETS:
        raise AdapterError(
            f"{where}: tensor {stored_name!r} adapts {module}; what can be adapted is "
            f"{', '.join(name.partition('.')[2] for name in TARGETS)}: retrain with other target_modules"
        )
    return LinearPlace(int(layer), module, cast(Literal["A", "B"], matrix))
