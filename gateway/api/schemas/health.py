"""Answers of the probes."""

from __future__ import annotations

from typing import Literal

import msgspec


class Live(msgspec.Struct, frozen=True):
    """The event loop turns."""

    status: Literal["alive"] = "alive"


class Loading(msgspec.Struct, frozen=True, kw_only=True):
    """A model that cannot answer. `progress` is the part of loading that is done, 0 to 1."""

    name: str
    progress: float


class Fallback(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served, but not by the device or engine that was asked for or is there."""

    name: str
    detail: str


class Readiness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether requests can be answered, which models are missing, and what runs otherwise than it could.

    Models that are well are not named.
    """

    status: Literal["ready", "loading", "draining"]
    waiting_for: list[Loading]
    fallbacks: list[Fallback] = []
    """Left out when empty."""
