"""A correct runner in a page: its KV are the tokens themselves, and its arithmetic is the oracle's.

It declares everything that the contract knows, so that each check of the kit has something to look at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from backends.api import (
    F32,
    I64,
    AdapterWeights,
    KVLimit,
    KVPlan,
    LoadableModel,
    ModelInfo,
    RowSampling,
    RunnerCapabilities,
    Step,
    StepResult,
    Ticket,
)
from backends.errors import CapacityExceeded, Fatal, UnsupportedModel
from backends.models.shapes import expected_shapes
from backends.runner_base import context_of, plan_kv
from backends.steps import check_step
from backends.testing.kit.checks.sampling import RowChoice, reference_shares
from backends.testing.kit.reference import Reference

CAPABILITIES = RunnerCapabilities(
    kv_layouts=("slot", "paged"),
    formats=("F32", "F16", "BF16", "Q8_0", "Q4_K"),
    max_verify_rows=8,
    lora_max_rank=8,
    lora_slots=4,
    lora_targets=("q", "k", "v", "o", "gate", "up", "down"),
    lora_formats=("F32", "Q8_0"),
    device_sampling=True,
    async_depth=3,
    deterministic=True,
)


class ReplayTicket(msgspec.Struct):
    """The result was computed at `submit`."""

    result: StepResult
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


class ReplayRunner:
    """See `backends.api.Runner`. Liars override one method."""

    def __init__(self) -> None:
        self.base: Reference | None = None
        self.adapters: dict[int, Reference] = {}
        self.plan: KVPlan | None = None
        self.context = 0
        self.kv: I64 | None = None
        """int64 `[blocks, block_tokens]`: the tokens; None while there is no memory."""
        self.tickets: deque[ReplayTicket] = deque()
        self.picked: I64 = np.zeros(0, np.int64)

    def capabilities(self) -> RunnerCapabilities:
        return CAPABILITIES

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        self.close()
        progress(0.0)
        self.check_formats(model)
        self.base = Reference(model)
        progress(1.0)
        return ModelInfo(
            vocab_size=model.spec.vocab_size,
            max_context=model.spec.max_context,
            num_layers=model.spec.num_layers,
            weight_bytes=sum(tensor.data.nbytes for tensor in model.tensors.values()),
            lora_shapes=self.lora_shapes(model),
        )

    def check_formats(self, model: LoadableModel) -> None:
        odd = {tensor.format for tensor in model.tensors.values()} - set(self.capabilities().formats)
        if odd:
            raise UnsupportedModel(f"formats {sorted(odd)} are not supported")

    def lora_shapes(self, model: LoadableModel) -> dict[str, tuple[int, int]]:
        shapes = expected_shapes(model.spec)
        targets = self.capabilities().lora_targets
        return {
            name: (shape[0], shape[1])
            for name, shape in shapes.items()
            if len(shape) == 2 and name.rpartition(".")[2] in targets
        }

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        spec = self.loaded().model.spec
        self.plan = plan_kv(spec, limit, layouts=self.capabilities().kv_layouts)
        self.context = context_of(spec, limit)
        self.resume()
        return self.plan

    def warmup(self) -> None:
        self.memory()

    def submit(self, step: Step) -> Ticket:
        base, kv, plan = self.loaded(), self.memory(), self.plan
        assert plan is not None
        spec = base.model.spec
        self.check(step, plan, vocab_size=spec.vocab_size)
        self.write(step, kv, self.tokens_of(step))
        logits = self.logits(step, kv)
        ticket = ReplayTicket(self.answer(step, logits))
        self.tickets.append(ticket)
        return ticket

    def check(self, step: Step, plan: KVPlan, *, vocab_size: int) -> None:
        check_step(step, plan, max_context=self.context, vocab_size=vocab_size, capabilities=self.capabilities())
        lowest = int(step.token_ids.min())
        if -lowest > len(self.picked):
            raise Fatal(f"token id {lowest} refers to no row of the step before")

    def collect(self, ticket: Ticket) -> StepResult:
        while self.tickets and self.tickets[0].is_cancelled:
            self.tickets.popleft()
        if not self.tickets or ticket is not self.tickets[0]:
            raise Fatal("tickets are collected once, in order, and not after cancel")
        return self.tickets.popleft().result

    def truncate(self, slot: int, num_tokens: int) -> None:
        self.memory()

    def copy_blocks(self, pairs: list[tuple[int, int]], num_tokens: int | None = None) -> None:
        kv = self.memory()
        for source, destination in pairs:
            if min(source, destination) < 0 or max(source, destination) >= len(kv):
                raise Fatal(f"no such block: {source} → {destination}")
            kv[destination, :num_tokens] = kv[source, :num_tokens]

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        base, capabilities = self.loaded(), self.capabilities()
        if not 0 <= slot < capabilities.lora_slots or weights.rank > capabilities.lora_max_rank:
            raise CapacityExceeded(f"adapter slot {slot}, rank {weights.rank}")
        self.check_matrices(base.model, weights)
        self.adapters[slot] = base.adapted(weights)

    def check_matrices(self, model: LoadableModel, weights: AdapterWeights) -> None:
        shapes = self.lora_shapes(model)
        for name, (a, b) in weights.matrices.items():
            rows, columns = shapes.get(name, (0, 0))
            if (a.shape, b.shape) != ((weights.rank, columns), (rows, weights.rank)):
                raise CapacityExceeded(f"{name}: A {a.shape} and B {b.shape} fit no linear of {rows} x {columns}")

    def drop_adapter(self, slot: int) -> None:
        self.adapters.pop(slot, None)

    def suspend(self) -> None:
        self.kv = None
        self.tickets.clear()

    def resume(self) -> None:
        self.loaded()
        if self.plan is None:
            raise Fatal("plan_memory comes first")
        self.kv = np.zeros((self.plan.num_blocks, self.plan.block_tokens), np.int64)

    def stats(self) -> dict[str, float]:
        return {"adapters": float(len(self.adapters))}

    def close(self) -> None:
        self.suspend()
        self.base, self.plan = None, None
        self.adapters = {}

    def loaded(self) -> Reference:
        if self.base is None:
            raise Fatal("no model is loaded")
        return self.base

    def memory(self) -> I64:
        if self.kv is None:
            raise Fatal("no KV memory: plan_memory or resume comes first")
        return self.kv

    def tokens_of(self, step: Step) -> I64:
        """The step's tokens, with what the step before picked in place of negative ones."""
        refers = step.token_ids < 0
        tokens = step.token_ids.copy()
        tokens[refers] = self.picked[-1 - step.token_ids[refers]]
        return tokens

    def write(self, step: Step, kv: I64, tokens: I64) -> None:
        for sequence in range(step.num_sequences):
            span = slice(int(step.q_start[sequence]), int(step.q_start[sequence + 1]))
            for token, position in zip(tokens[span].tolist(), step.positions[span].tolist(), strict=True):
                block, offset = self.place(step, sequence, position)
                kv[block, offset] = token

    def place(self, step: Step, sequence: int, position: int) -> tuple[int, int]:
        """Block or slot, and offset in it, of a token."""
        if step.block_table is None:
            return int(step.slot[sequence]), position
        assert self.plan is not None
        column, offset = divmod(position, self.plan.block_tokens)
        return int(step.block_table[sequence, column]), offset

    def read(self, step: Step, kv: I64, sequence: int) -> list[int]:
        """The tokens of a sequence after the step."""
        places = [self.place(step, sequence, position) for position in range(int(step.kv_len[sequence]))]
        return [int(kv[place]) for place in places]

    def logits(self, step: Step, kv: I64) -> F32:
        """float32 `[R, vocab]`."""
        spec = self.loaded().model.spec
        found = [self.rows(step, kv, sequence) for sequence in range(step.num_sequences)]
        return np.concatenate([np.zeros((0, spec.vocab_size), np.float32), *found])

    def rows(self, step: Step, kv: I64, sequence: int) -> F32:
        """The rows that the step wants of a sequence."""
        start, end = int(step.q_start[sequence]), int(step.q_start[sequence + 1])
        wanted = step.logit_rows[(step.logit_rows >= start) & (step.logit_rows < end)] - end
        tokens = self.read(step, kv, sequence)
        reference = self.reference_of(int(step.lora[sequence]))
        with np.errstate(all="ignore"):  # NaN is valid here
            return reference.rows(tokens, len(tokens))[wanted]

    def reference_of(self, lora: int) -> Reference:
        return self.loaded() if lora < 0 else self.adapters[lora]

    def answer(self, step: Step, logits: F32) -> StepResult:
        if step.sampling is None:
            self.picked = np.zeros(0, np.int64)
            return StepResult(logits)
        self.picked = np.array([self.pick(row, step.sampling, place) for place, row in enumerate(logits)], np.int64)
        return StepResult(logits[:0], self.picked)

    def pick(self, row: F32, sampling: RowSampling, place: int) -> int:
        if not np.isfinite(row.max()):
            return -1
        choice = RowChoice(
            temperature=float(sampling.temperature[place]),
            min_p=float(sampling.min_p[place]),
            top_k=int(sampling.top_k[place]),
            top_p=float(sampling.top_p[place]),
        )
        ends: npt.NDArray[np.float64] = np.cumsum(reference_shares(row, choice))
        return int(np.searchsorted(ends, sampling.uniform[place], side="right"))
