"""Names a LoRA adapter, as the configuration declares it, the engine reads it and the gateway routes to it."""

from __future__ import annotations

import msgspec


class AdapterRef(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter of one model: a PEFT folder, under a name of its own."""

    name: str
    """Part after the colon in `model: "base:name"`."""
    base: str
    """Name of the served model that it was trained for."""
    path: str
    tenants: tuple[str, ...] = ()
    """Names of the tenants that may use it; empty is every tenant that may use its base."""
