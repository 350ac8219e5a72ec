"""A runner without a model: deterministic logits that depend on every key and value of a sequence.

It exists to test engines. A token in the wrong slot, a stale or a missing one changes all that follows, and a step
that breaks the contract is refused. Faults can be ordered for given steps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import chain, pairwise

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
from backends.weights.formats import FORMATS

U64 = npt.NDArray[np.uint64]

FAULTS_VARIABLE = "HOSTELRY_FAKE_FAULTS"
"""JSON of a `FakeFaults` for a fake runner in another process."""

_BYTES_PER_TOKEN = 8
_GARBAGE = np.uint64(0xDEADBEEFDEADBEEF)
# Odd constants of splitmix64 (Steele et al., OOPSLA'14); all arithmetic wraps at 64 bits.
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_MIX_C = np.uint64(0x9E3779B97F4A7C15)
_SPREAD = np.float32(16.0)
"""Logits lie in [0, 16): peaked enough to sample from, flat enough that every token can come."""


class FakeFaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong, and when: the n-th `submit`, counted from 1. Defaults mean "never"."""

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
    """What the runner says it could not have."""
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
    """Keeps one number per token as its KV: uint64 `[slots, tokens]`. Reads nothing of a model but its sizes."""

    def __init__(self, faults: FakeFaults | None = None) -> None:
        self._faults = faults or FakeFaults()
        self._num_submitted = 0
        self._max_context = 0
        self._kv: U64 = np.zeros((0, 0), dtype=np.uint64)
        self._mixed_ids: U64 = np.zeros(0, dtype=np.uint64)
        self._is_closed = False

    def capabilities(self) -> RunnerCapabilities:
        return RunnerCapabilities(kv_layouts=("slot",), formats=tuple(FORMATS), max_verify_rows=8, deterministic=True)

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        if self._faults.load_failure:
            raise UnsupportedModel(self._faults.load_failure)
        progress(0.0)
        spec = model.spec
        self._max_context = spec.max_context
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
        block_tokens = min(limit.max_context, self._max_context)
        bytes_per_block = block_tokens * _BYTES_PER_TOKEN
        num_blocks = min(limit.max_sequences, limit.max_bytes // bytes_per_block)
        if num_blocks < 1:
            raise CapacityExceeded(f"one sequence needs {bytes_per_block} bytes of KV, {limit.max_bytes} are allowed")
        self._kv = np.full((num_blocks, block_tokens), _GARBAGE, dtype=np.uint64)
        return KVPlan(layout="slot", num_blocks=num_blocks, block_tokens=block_tokens, bytes_per_block=bytes_per_block)

    def warmup(self) -> None:
        """Nothing gets faster."""

    def submit(self, step: Step) -> Ticket:
        self._num_submitted += 1
        self._check(step)
        if self._faults.delay_s:
            time.sleep(self._faults.delay_s)
        self._fail_if_ordered(step)
        self._write(step)
        logits = self._logits(step)
        if self._num_submitted in self._faults.nan_rows:
            logits[self._faults.nan_rows[self._num_submitted]] = np.nan
        return FakeTicket(logits)

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
        self._is_closed = True
        self._kv = np.zeros((0, 0), dtype=np.uint64)

    def _check(self, step: Step) -> None:
        """Hold the engine to the contract of `Step`. Raises `Fatal`."""
        if self._is_closed:
            raise Fatal("the runner is closed")
        # Lists: steps are small, and NumPy takes microseconds for each look at a few numbers.
        starts, kv_len, slots = step.q_start.tolist(), step.kv_len.tolist(), step.slot.tolist()
        num_new = [end - start for start, end in pairwise(starts)]
        if step.num_sequences < 1 or min(num_new) < 1 or starts[0] != 0 or starts[-1] != step.num_tokens:
            raise Fatal(f"q_start {starts} does not cut {step.num_tokens} tokens into sequences")
        if len(set(slots)) != step.num_sequences:
            raise Fatal(f"slots {slots} are not distinct")
        if max(kv_len) > self._kv.shape[1]:
            raise Fatal(f"kv_len {kv_len} exceeds {self._kv.shape[1]}")
        leading = [range(end - count, end) for end, count in zip(kv_len, num_new, strict=True)]
        if step.positions.tolist() != list(chain.from_iterable(leading)):
            raise Fatal("positions do not lead up to kv_len")
        token_ids = step.token_ids.tolist()
        if min(token_ids) < 0 or max(token_ids) >= len(self._mixed_ids):
            raise Fatal("a token id lies outside the vocabulary")

    def _fail_if_ordered(self, step: Step) -> None:
        number, faults = self._num_submitted, self._faults
        kinds = ((faults.capacity_at, CapacityExceeded), (faults.retryable_at, Retryable), (faults.fatal_at, Fatal))
        for steps, kind in kinds:
            if number in steps:
                self._scribble(step)
                raise kind(f"ordered for step {number}")
        if 0 < faults.max_sequences < step.num_sequences:
            self._scribble(step)
            raise CapacityExceeded(f"{step.num_sequences} sequences, room for {faults.max_sequences}")

    def _scribble(self, step: Step) -> None:
        """The KV of a failed step is undefined; make sure that nobody relies on it."""
        self._kv[self._slot_of_token(step), step.positions] = _GARBAGE

    def _write(self, step: Step) -> None:
        hashed = step.token_ids.astype(np.uint64) * _MIX_A + step.positions.astype(np.uint64) * _MIX_B + _MIX_C
        self._kv[self._slot_of_token(step), step.positions] = (hashed ^ (hashed >> np.uint64(29))) * _MIX_B

    def _slot_of_token(self, step: Step) -> npt.NDArray[np.int32]:
        return np.repeat(step.slot, step.q_start[1:] - step.q_start[:-1])

    def _logits(self, step: Step) -> F32:
        """After the tokens at the step's `logit_rows`: [rows, vocab]."""
        seen = [self._seen_at(step, row) for row in step.logit_rows.tolist()]
        mixed = (self._mixed_ids ^ np.array(seen, dtype=np.uint64)[:, None]) * _MIX_A
        mixed = (mixed ^ (mixed >> np.uint64(31))) * _MIX_B
        logits: F32 = (mixed >> np.uint64(40)).astype(np.float32) * (_SPREAD / np.float32(1 << 24))
        return logits

    def _seen_at(self, step: Step, row: int) -> np.uint64:
        """The sum of what is stored for a sequence, up to the token at `row` of the step."""
        sequence = int(step.q_start.searchsorted(row, side="right")) - 1
        seen: np.uint64 = self._kv[step.slot[sequence], : step.positions[row] + 1].sum(dtype=np.uint64)
        return seen
