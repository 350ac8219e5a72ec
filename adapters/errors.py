"""Errors of adapters.

backends.errors.ModelError
└── AdapterError            damaged, unsafe, contradicts itself, or does not fit its base
    └── UnsupportedAdapter  sound, but there is no rule for it here
"""

from __future__ import annotations

from backends.errors import ModelError


class AdapterError(ModelError):
    """The adapter's files cannot be used with this base; the message names file, tensor or field, and a way out."""


class UnsupportedAdapter(AdapterError):
    """More than LoRA beside the linears of a layer, which left out would give the answers of another adapter."""
