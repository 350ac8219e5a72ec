"""A check: a name, a claim, and a function that raises where the claim is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from backends.api import RunnerCapabilities
from backends.testing.kit.bench import KitBench, KitLayout

Capability = Literal["ragged_steps", "max_verify_rows", "lora_slots", "device_sampling", "async_depth", "deterministic"]

_OFF: dict[Capability, int] = {"max_verify_rows": 1, "async_depth": 1}
"""Values that stand for "not declared"; of the others it is 0."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """`layouts`: the KV layouts it is run in, each by itself; empty: once, in the first that the runner declares."""

    name: str
    claim: str
    run: Callable[[KitBench], None]
    needs: Capability | None = None
    layouts: tuple[KitLayout, ...] = ("slot", "paged")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A check in a layout; `None` is the first that the runner declares."""

    check: Check
    layout: KitLayout | None

    @property
    def name(self) -> str:
        return f"{self.check.name}-{self.layout}" if self.layout else self.check.name

    def why_skipped(self, capabilities: RunnerCapabilities) -> str:
        """Missing capability; empty if the case applies."""
        if self.layout is not None and self.layout not in capabilities.kv_layouts:
            return f"the runner declares no {self.layout} KV layout"
        needs = self.check.needs
        if needs is not None and getattr(capabilities, needs) <= _OFF.get(needs, 0):
            return f"the runner declares {needs}={getattr(capabilities, needs)}"
        return ""


def cases_of(checks: tuple[Check, ...]) -> tuple[Case, ...]:
    """Every check in each of its layouts, in order."""
    return tuple(Case(check=check, layout=layout) for check in checks for layout in (check.layouts or (None,)))
