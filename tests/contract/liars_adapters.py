"""Liars about LoRA. Each is honest but for one point."""

from __future__ import annotations

import msgspec
import numpy as np

from backends.api import (
    F32,
    I64,
    AdapterWeights,
    LoadableModel,
    Step,
)
from backends.errors import CapacityExceeded
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


class FitsMatrices(ReplayRunner):
    """Matrices that are too large are cut, and those that are too small filled with zeros."""

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        shapes, rank = self.lora_shapes(self.loaded().model), weights.rank
        matrices = {
            name: (fitted(a, rank, shapes[name][1]), fitted(b, shapes[name][0], rank)) if name in shapes else (a, b)
            for name, (a, b) in weights.matrices.items()
        }
        super().put_adapter(slot, msgspec.structs.replace(weights, matrices=matrices))


def fitted(matrix: F32, rows: int, columns: int) -> F32:
    cut = matrix[:rows, :columns]
    return np.pad(cut, ((0, rows - cut.shape[0]), (0, columns - cut.shape[1])))


class StopsHalfway(ReplayRunner):
    """Writes into the first slot the part of an adapter taken ahead of finding that the rest does not fit."""

    def check_matrices(self, model: LoadableModel, weights: AdapterWeights) -> None:
        try:
            super().check_matrices(model, weights)
        except CapacityExceeded:
            self.adapters[0] = self.loaded()
            raise


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
    (FitsMatrices, "lora_misfits"),
    (StopsHalfway, "lora_misfits"),
    (AddsAdapters, "lora_replaced"),
    (DropsAdaptersAsleep, "lora_suspended"),
    (DropsOnce, "lora_replaced"),
)
"""The liar, and the check that is about its lie."""
