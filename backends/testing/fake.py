"""A runner without a model: deterministic logits that depend on every key and value of a sequence.

It exists to test engines. A token in the wrong slot, a stale or a missing one changes all that follows, and a step
that violates the contract is refused. Faults can be ordered for given steps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from backends.api import (
    F32,
    AdapterWeights,
    KVLimit,
    KVPlan,
    LoadableModel,
    ModelInfo,
    RunnerCapabilities,
    Step,
    StepResult,
    Ticket,
)
from backends.errors import CapacityExceeded, Fatal, Retryable, UnsupportedModel
from backends.models.spec import ModelSpec
from backends.runner_base import Layouts, check_step, context_of, flat_indices, plan_kv
from backends.weights.formats import FORMATS

U64 = npt.NDArray[np.uint64]

FAULTS_VARIABLE = "HOSTELRY_FAKE_FAULTS"
"""JSON of a `FakeFaults` for a fake runner in another process."""

_LAYOUTS: Layouts = ("slot", "paged")
_BYTES_PER_TOKEN = 8
_GARBAGE = np.uint64(0xDEADBEEFDEADBEEF)
# Odd constants of splitmix64 (Steele et al., OOPSLA'14); all arithmetic wraps at 64 bits.
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_MIX_C = np.uint64(0x9E3779B97F4A7C15)
_SPREAD = np.float32(16.0)
"""Logits lie in [0, 16): peaked enough to sample from, flat enough that every token can come."""


class FakeFaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults by the number of the `submit` call, counted from 1. Defaults mean "never"."""

    capacity_at: tuple[int, ...] = ()
    retryable_at: tuple[int, ...] = ()
    fatal_at: tuple[int, ...] = ()
    nan_rows: dict[int, int] = {}
    """Step → index of the logit row that becomes NaN."""
    max_sequences: int = 0
    """Steps with more sequences than this run out of memory; 0 means no limit."""
    delay_s: float = 0.0
    """Each step takes at least this long."""
    fallback: str = ""
    """Fallback that the runner reports."""
    load_failure: str = ""
    """`load` raises `UnsupportedModel` with this message."""


def create_fake_runner(*, threads: int = 0, exact: bool = False) -> FakeRunner:
    """Entry point of the runner `fake`. It has no use for the options; faults come from `HOSTELRY_FAKE_FAULTS`."""
    del threads, exact
    faults = os.environ.get(FAULTS_VARIABLE)
    return FakeRunner(msgspec.json.decode(faults, type=FakeFaults) if faults else FakeFaults())


class FakeTicket(msgspec.Struct):
    """Logits that were computed at `submit`."""

    logits: F32
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeRunner:
    """Keeps one number per token as its KV: uint64 `[blocks, tokens]`. Reads nothing of a model but its sizes."""

    def __init__(self, faults: FakeFaults | None = None) -> None:
        self._faults = faults or FakeFaults()
        self._num_submitted = 0
        self._spec: ModelSpec | None = None
        self._plan: KVPlan | None = None
        self._max_context = 0
        self._kv: U64 = np.zeros((0, 0), dtype=np.uint64)
        self._mixed_ids: U64 = np.zeros(0, dtype=np.uint64)

    def capabilities(self) -> RunnerCapabilities:
        return RunnerCapabilities(kv_layouts=_LAYOUTS, formats=tuple(FORMATS), max_verify_rows=8, deterministic=True)

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        if self._faults.load_failure:
            raise UnsupportedModel(self._faults.load_failure)
        progress(0.0)
        spec = self._spec = model.spec
        self._mixed_ids = np.arange(1, spec.vocab_size + 1, dtype=np.uint64) * _MIX_C
        progress(1.0)
        return ModelInfo(
            vocab_size=spec.vocab_size,
            max_context=spec.max_context,
            num_layers=spec.num_layers,
            weight_bytes=0,
            device="none",
            notes=("the fake runner answers with noise; it is for tests",),
            fallbacks=(self._faults.fallback,) if self._faults.fallback else (),
        )

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        if self._spec is None:
            raise Fatal("no model is loaded")
        plan = plan_kv(self._spec, limit, layouts=_LAYOUTS, bytes_per_token=_BYTES_PER_TOKEN)
        self._max_context = context_of(self._spec, limit)
        self._kv = np.full((plan.num_blocks, plan.block_tokens), _GARBAGE, dtype=np.uint64)
        self._plan = plan
        return plan

    def warmup(self) -> None:
        """Nothing gets faster."""

    def submit(self, step: Step) -> Ticket:
        self._num_submitted += 1
        self._check(step)
        return FakeTicket(self._compute(step, number=self._num_submitted))

    def collect(self, ticket: Ticket) -> StepResult:
        if not isinstance(ticket, FakeTicket) or ticket.is_cancelled:
            raise Fatal("this ticket is cancelled or not one of this runner")
        return StepResult(ticket.logits)

    def truncate(self, slot: int, num_tokens: int) -> None:
        self._kv[slot, num_tokens:] = _GARBAGE

    def copy_blocks(self, pairs: list[tuple[int, int]], num_tokens: int | None = None) -> None:
        for source, destination in pairs:
            self._kv[destination, :num_tokens] = self._kv[source, :num_tokens]

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        raise CapacityExceeded(f"the fake runner has no adapter slot {slot} for rank {weights.rank}")

    def drop_adapter(self, slot: int) -> None:
        raise Fatal(f"adapter slot {slot} was never filled")

    def suspend(self) -> None:
        self._kv[:] = _GARBAGE

    def resume(self) -> None:
        """KV was lost at `suspend`; there is nothing to fetch."""

    def stats(self) -> dict[str, float]:
        return {"steps": float(self._num_submitted)}

    def close(self) -> None:
        self._spec, self._plan = None, None
        self._kv = np.zeros((0, 0), dtype=np.uint64)

    def _check(self, step: Step) -> None:
        """Check a step against the contract. Raises `Fatal` or `CapacityExceeded`."""
        if self._spec is None or self._plan is None:
            raise Fatal("the runner is closed, or has no KV memory")
        check_step(
            step,
            self._plan,
            max_context=self._max_context,
            vocab_size=self._spec.vocab_size,
            capabilities=self.capabilities(),
        )

    def _compute(self, step: Step, *, number: int) -> F32:
        """Logits `[R, vocab]` of the step of that number."""
        if self._faults.delay_s:
            time.sleep(self._faults.delay_s)
        self._fail_if_ordered(step, number)
        self._write(step)
        logits = self._logits(step)
        if number in self._faults.nan_rows:
            logits[self._faults.nan_rows[number]] = np.nan
        return logits

    def _fail_if_ordered(self, step: Step, number: int) -> None:
        faults = self._faults
        kinds = ((faults.capacity_at, CapacityExceeded), (faults.retryable_at, Retryable), (faults.fatal_at, Fatal))
        for steps, kind in kinds:
            if number in steps:
                self._scribble(step)
                raise kind(f"ordered for step {number}")
        if 0 < faults.max_sequences < step.num_sequences:
            self._scribble(step)
            raise CapacityExceeded(f"{step.num_sequences} sequences, room for {faults.max_sequences}")

    def _scribble(self, step: Step) -> None:
        """Overwrite the KV of a failed step, which is undefined, so that relying on it shows."""
        self._kv.flat[self._places(step)] = _GARBAGE

    def _write(self, step: Step) -> None:
        hashed = step.token_ids.astype(np.uint64) * _MIX_A + step.positions.astype(np.uint64) * _MIX_B + _MIX_C
        self._kv.flat[self._places(step)] = (hashed ^ (hashed >> np.uint64(29))) * _MIX_B

    def _table(self, step: Step) -> npt.NDArray[np.int32]:
        return step.slot[:, None] if step.block_table is None else step.block_table

    def _places(self, step: Step) -> npt.NDArray[np.int32]:
        return flat_indices(step, self._table(step), self._kv.shape[1])

    def _logits(self, step: Step) -> F32:
        """Logits after the tokens at the step's `logit_rows`: [rows, vocab]."""
        seen = [self._seen_at(step, row) for row in step.logit_rows.tolist()]
        mixed = (self._mixed_ids ^ np.array(seen, dtype=np.uint64)[:, None]) * _MIX_A
        mixed = (mixed ^ (mixed >> np.uint64(31))) * _MIX_B
        logits: F32 = (mixed >> np.uint64(40)).astype(np.float32) * (_SPREAD / np.float32(1 << 24))
        return logits

    def _seen_at(self, step: Step, row: int) -> np.uint64:
        """The sum of what is stored for a sequence, up to the token at `row` of the step."""
        sequence = int(step.q_start.searchsorted(row, side="right")) - 1
        blocks = self._kv[self._table(step)[sequence]].ravel()
        seen: np.uint64 = blocks[: step.positions[row] + 1].sum(dtype=np.uint64)
        return seen
