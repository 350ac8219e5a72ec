"""Liars about the numbers of a step and the tokens picked from them. Each is honest but for one point."""

from __future__ import annotations

import numpy as np

from backends.api import (
    F32,
    I64,
    RowSampling,
    Step,
    StepResult,
    Ticket,
)
from tests.contract.replay import ReplayRunner


class ReversesRows(ReplayRunner):
    """The rows are right, their order is not."""

    def logits(self, step: Step, kv: I64) -> F32:
        return super().logits(step, kv)[::-1].copy()


class LastRowOnly(ReplayRunner):
    """Takes several rows to verify and gives the last one for all of them."""

    def rows(self, step: Step, kv: I64, sequence: int) -> F32:
        rows = super().rows(step, kv, sequence)
        return rows[[-1] * len(rows)] if len(rows) else rows


class Noisy(ReplayRunner):
    """Says that it is deterministic."""

    def __init__(self) -> None:
        super().__init__()
        self._rng = np.random.default_rng(0)

    def logits(self, step: Step, kv: I64) -> F32:
        logits = super().logits(step, kv)
        return logits * (1 + np.float32(1e-6) * self._rng.standard_normal(logits.shape, np.float32))


class NaNInCompany(ReplayRunner):
    """One row that is not finite spoils the batch."""

    def logits(self, step: Step, kv: I64) -> F32:
        logits = super().logits(step, kv)
        return logits if np.isfinite(logits).all() else np.full_like(logits, np.nan)


class DependsOnCompany(ReplayRunner):
    """Rounds differently in larger batches, and by more than rounding explains."""

    def logits(self, step: Step, kv: I64) -> F32:
        return super().logits(step, kv) * np.float32(1 + 5e-5 * (step.num_sequences - 1))


class HalfPrecision(ReplayRunner):
    """float16 logits."""

    def answer(self, step: Step, logits: F32) -> StepResult:
        return super().answer(step, logits.astype(np.float16))


class KeepsArrays(ReplayRunner):
    """Computes at collect, from arrays that are not its own any more."""

    def submit(self, step: Step) -> Ticket:
        ticket = super().submit(step)
        self._step = step
        return ticket

    def collect(self, ticket: Ticket) -> StepResult:
        result = super().collect(ticket)
        step = self._step
        return StepResult(result.logits * np.float32(step.kv_len[0] > 1)) if step.sampling is None else result


class SamplesByRank(ReplayRunner):
    """Inverts the cumulative distribution in the order of probability."""

    def pick(self, row: F32, sampling: RowSampling, place: int) -> int:
        falling = np.argsort(-row, kind="stable")
        return int(falling[super().pick(row[falling], sampling, place)])


class PicksLastOfEquals(ReplayRunner):
    """Greedy, but from behind."""

    def pick(self, row: F32, sampling: RowSampling, place: int) -> int:
        return len(row) - 1 - super().pick(row[::-1], sampling, place)


class ForgetsPicks(ReplayRunner):
    """Negative token ids become token 0."""

    def tokens_of(self, step: Step) -> I64:
        return np.maximum(step.token_ids, 0)


LIES: tuple[tuple[type[ReplayRunner], str], ...] = (
    (ReversesRows, "decode_batch-slot"),
    (LastRowOnly, "verify-slot"),
    (Noisy, "deterministic-slot"),
    (NaNInCompany, "poison_company-slot"),
    (DependsOnCompany, "company-slot"),
    (KeepsArrays, "arrays_reused-slot"),
    (HalfPrecision, "prefill-slot"),
    (SamplesByRank, "sampling-slot"),
    (PicksLastOfEquals, "sampling_ties-slot"),
    (ForgetsPicks, "sampling_chain-slot"),
)
"""The liar, and the check that is about its lie."""
