"""Liars about KV memory: what is read, kept, copied, planned. Each is honest but for one point."""

from __future__ import annotations

import msgspec
import numpy as np

from backends.api import (
    F32,
    I64,
    KVLimit,
    KVPlan,
    Step,
)
from backends.testing.kit.samples import POISON
from tests.contract.replay import ReplayRunner


class ReadsStaleKV(ReplayRunner):
    """Reads one token more than the sequence has."""

    def read(self, step: Step, kv: I64, sequence: int) -> list[int]:
        tokens = super().read(step, kv, sequence)
        beyond = min(len(tokens), kv.shape[1] - 1)
        return [int(kv[self.place(step, sequence, beyond)]), *tokens[1:]] if beyond % 16 else tokens


class OffByOne(ReplayRunner):
    """Positions begin at 1 in a decode step."""

    def place(self, step: Step, sequence: int, position: int) -> tuple[int, int]:
        block, offset = super().place(step, sequence, position)
        is_decode = step.num_tokens == step.num_sequences
        return block, max(0, offset - 1) if is_decode else offset


class SpreadsNaN(ReplayRunner):
    """0 * NaN is NaN: KV beyond the end of a sequence is masked, but it is read."""

    def rows(self, step: Step, kv: I64, sequence: int) -> F32:
        rows = super().rows(step, kv, sequence)
        first_block, _ = self.place(step, sequence, 0)
        is_masked_nan = bool((kv[first_block] == POISON).any())
        return rows * np.float32(np.nan) if is_masked_nan else rows


class TruncatesAll(ReplayRunner):
    """Empties the whole slot."""

    def truncate(self, slot: int, num_tokens: int) -> None:
        self.memory()[slot] = 0


class CopiesNothing(ReplayRunner):
    """Looks at the pairs and leaves."""

    def copy_blocks(self, pairs: list[tuple[int, int]], num_tokens: int | None = None) -> None:
        super().copy_blocks([(source, source) for source, _ in pairs])
        super().copy_blocks([(destination, destination) for _, destination in pairs])


class CopiesAtOnce(ReplayRunner):
    """All sources are read before anything is written."""

    def copy_blocks(self, pairs: list[tuple[int, int]], num_tokens: int | None = None) -> None:
        before = self.memory().copy()
        super().copy_blocks(pairs, num_tokens)
        for source, destination in pairs:
            self.memory()[destination] = before[source]


class CopiesTooLittle(ReplayRunner):
    """Omits one of the tokens when only the first ones are to be copied."""

    def copy_blocks(self, pairs: list[tuple[int, int]], num_tokens: int | None = None) -> None:
        super().copy_blocks(pairs, num_tokens and num_tokens - 1)


class PlansTooMuch(ReplayRunner):
    """Takes one block more than is allowed."""

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        plan = super().plan_memory(limit)
        self.plan = msgspec.structs.replace(plan, num_blocks=plan.num_blocks + 1)
        self.resume()
        return self.plan


class CountsFewBytes(ReplayRunner):
    """Reports that its blocks cost nearly nothing."""

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        return msgspec.structs.replace(super().plan_memory(limit), bytes_per_block=16)


class PromisesMore(ReplayRunner):
    """The last block of the plan is not there: writes to it go to another."""

    def place(self, step: Step, sequence: int, position: int) -> tuple[int, int]:
        block, offset = super().place(step, sequence, position)
        assert self.plan is not None
        return min(block, self.plan.num_blocks - 2), offset


class KeepsKVAsleep(ReplayRunner):
    """Gives a tenant what another left behind."""

    def suspend(self) -> None:
        kept = self.kv
        super().suspend()
        self._kept = kept

    def resume(self) -> None:
        super().resume()
        kept = getattr(self, "_kept", None)
        assert self.kv is not None
        if kept is not None and kept.shape == self.kv.shape:
            self.kv = kept


class WarmsUpForGood(ReplayRunner):
    """Leaves what the warm-up wrote in front of every sequence."""

    def read(self, step: Step, kv: I64, sequence: int) -> list[int]:
        return [0, *super().read(step, kv, sequence)]


LIES: tuple[tuple[type[ReplayRunner], str], ...] = (
    (ReadsStaleKV, "reuse-slot"),
    (OffByOne, "decode-paged"),
    (SpreadsNaN, "poison-slot"),
    (TruncatesAll, "rollback-slot"),
    (CopiesNothing, "copies-paged"),
    (CopiesAtOnce, "copies-slot"),
    (CopiesTooLittle, "copies-slot"),
    (PlansTooMuch, "plan_limits-slot"),
    (CountsFewBytes, "plan_limits-paged"),
    (PromisesMore, "plan_used-paged"),
    (KeepsKVAsleep, "suspend-slot"),
    (WarmsUpForGood, "warmup-slot"),
)
"""The liar, and the check that is about its lie."""
