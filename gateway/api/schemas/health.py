"""Answers of the probes."""

from __future__ import annotations

from typing import Literal

import msgspec


class Live(msgspec.Struct, frozen=True):
    """The event loop turns."""

    status: Literal["alive"] = "alive"


class ModelReadiness(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    ready: bool
    progress: float
    """Part of loading that is done, 0 to 1."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether requests can be answered, model by model."""

    status: Literal["ready", "loading", "draining"]
    models: list[ModelReadiness]
