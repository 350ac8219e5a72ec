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

from backends.api import F32, KVLimit, KVPlan, LoadableModel, ModelInfo, RunnerCapabilities, Step, StepResult
from backends.errors import CapacityExceeded, Fatal, Retryable, UnsupportedModel
from backends.runner_base import Layouts, PendingResult, PlannedKV, RunnerBase, plan_kv
from backends.steps import flat_indices
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
"""Logits are in [0, 16): peaked enough to sample from, flat enough that every token can come."""


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


class FakeRunner(RunnerBase[LoadableModel, U64]):
    """Keeps one number per token as its KV: uint64 `[blocks, tokens]`. Reads nothing of a model but its sizes."""

    name = "fake"

    def __init__(self, faults: FakeFaults | None = None) -> None:
        super().__init__()
        self._faults = faults or FakeFaults()
        self._num_submitted = 0
        self._mixed_ids: U64 = np.zeros(0, dtype=np.uint64)

    def capabilities(self) -> RunnerCapabilities:
        return RunnerCapabilities(kv_layouts=_LAYOUTS, formats=tuple(FORMATS), max_verify_rows=8, deterministic=True)

    def load_weights(self, model: LoadableModel, progress: Callable[[float], None]) -> tuple[LoadableModel, ModelInfo]:
        if self._faults.load_failure:
            raise UnsupportedModel(self._faults.load_failure)
        progress(0.0)
        spec = model.spec
        self._mixed_ids = np.arange(1, spec.vocab_size + 1, dtype=np.uint64) * _MIX_C
        progress(1.0)
        return model, ModelInfo(
            vocab_size=spec.vocab_size,
            max_context=spec.max_context,
            num_layers=spec.num_layers,
            weight_bytes=0,
            device="none",
            notes=("the fake runner answers with noise; it is for tests",),
            fallbacks=(self._faults.fallback,) if self._faults.fallback else (),
        )

    def plan(self, model: LoadableModel, limit: KVLimit) -> KVPlan:
        return plan_kv(model.spec, limit, layouts=_LAYOUTS, bytes_per_token=_BYTES_PER_TOKEN)

    def allocate(self, model: LoadableModel, planned: PlannedKV) -> U64:  # noqa: ARG002  # nothing of it is needed
        return np.full((planned.plan.num_blocks, planned.plan.block_tokens), _GARBAGE, dtype=np.uint64)

    def warmup(self) -> None:
        """Do nothing: no step gets faster."""

    def run(self, step: Step, model: LoadableModel, kv: U64) -> StepResult | PendingResult:  # noqa: ARG002  # as above
        self._num_submitted += 1
        return StepResult(self._compute(step, number=self._num_submitted))

    def truncate(self, slot: int, num_tokens: int) -> None:
        self.kv[slot, num_tokens:] = _GARBAGE

    def copy(self, kv: U64, source: int, destination: int, num_tokens: int | None) -> None:
        kv[destination, :num_tokens] = kv[source, :num_tokens]

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
        self.kv.flat[self._places(step)] = _GARBAGE

    def _write(self, step: Step) -> None:
        hashed = step.token_ids.astype(np.uint64) * _MIX_A + step.positions.astype(np.uint64) * _MIX_B + _MIX_C
        self.kv.flat[self._places(step)] = (hashed ^ (hashed >> np.uint64(29))) * _MIX_B

    def _table(self, step: Step) -> npt.NDArray[np.int32]:
        return step.slot[:, None] if step.block_table is None else step.block_table

    def _places(self, step: Step) -> npt.NDArray[np.int32]:
        return flat_indices(step, self._table(step), self.kv.shape[1])

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
        blocks = self.kv[self._table(step)[sequence]].ravel()
        seen: np.uint64 = blocks[: step.positions[row] + 1].sum(dtype=np.uint64)
        return seen
