"""Liars about LoRA. Each is honest but for one point."""

from __future__ import annotations

import msgspec

from backends.api import (
    F32,
    I64,
    AdapterWeights,
    Step,
)
from backends.testing.kit.reference import Reference
from tests.contract.replay import ReplayRunner


class IgnoresAdapters(ReplayRunner):
    """Takes them and computes the base."""

    def reference_of(self, lora: int) -> Reference:
        return self.loaded()


class OneAdapterAStep(ReplayRunner):
    """The first sequence's adapter serves all."""

    def rows(self, step: Step, kv: I64, sequence: int) -> F32:
        return super().rows(msgspec.structs.replace(step, lora=step.lora[[0] * len(step.lora)]), kv, sequence)


class CutsAdapters(ReplayRunner):
    """A rank too large is cut, not refused."""

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        rank = min(weights.rank, self.capabilities().lora_max_rank)
        matrices = {name: (a[:rank], b[:, :rank]) for name, (a, b) in weights.matrices.items()}
        super().put_adapter(slot, AdapterWeights(rank=rank, scale=weights.scale, matrices=matrices))


class AddsAdapters(ReplayRunner):
    """Putting an adapter where one was keeps matrices of the old one."""

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        before = self.adapters.get(slot)
        kept = before.adapter.matrices if before and before.adapter else {}
        super().put_adapter(slot, msgspec.structs.replace(weights, matrices={**kept, **weights.matrices}))


class DropsAdaptersAsleep(ReplayRunner):
    """Adapters go with the KV."""

    def suspend(self) -> None:
        super().suspend()
        self.adapters = {}

    def reference_of(self, lora: int) -> Reference:
        return self.adapters.get(lora, self.loaded())


class DropsOnce(ReplayRunner):
    """Nothing to drop is a fault."""

    def drop_adapter(self, slot: int) -> None:
        del self.adapters[slot]


LIES: tuple[tuple[type[ReplayRunner], str], ...] = (
    (IgnoresAdapters, "lora_rows-slot"),
    (OneAdapterAStep, "lora_rows-paged"),
    (CutsAdapters, "lora_refused"),
    (AddsAdapters, "lora_replaced"),
    (DropsAdaptersAsleep, "lora_suspended"),
    (DropsOnce, "lora_replaced"),
)
"""The liar, and the check that is about its lie."""
