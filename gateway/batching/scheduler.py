"""Decides how many tokens each sequence gets in the next step. Uses no tensors."""

from __future__ import annotations

import time

import msgspec

from gateway.batching.adapter_slots import AdapterSlots
from gateway.batching.admission import AdmissionOrder
from gateway.batching.kv.allocator import KVAllocator
from gateway.batching.prefill_budget import PrefillBudget
from gateway.batching.sequence import Sequence


class StepLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a step. `max_step_tokens` ≥ `max_sequences`, so that every decoding sequence fits into every step."""

    max_sequences: int
    max_step_tokens: int
    max_context: int
    max_logit_rows: int = 1
    """Logit rows that one sequence may use in a step; limits how fast a prompt is scored."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_sequences <= self.max_step_tokens:
            raise ValueError(f"max_sequences {self.max_sequences} is not within 1 to {self.max_step_tokens}")


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """The next unplanned tokens of a sequence, positions `start` to `end`. All fields are set when it is planned."""

    sequence: Sequence
    start: int
    end: int
    num_tokens: int
    num_prompt_tokens: int
    samples: bool
    """True if its last logits give the next token."""
    ends_scoring: bool
    """True if a sequence that only scores its prompt is complete after this chunk."""
    scored: range
    """Positions whose logits score the prompt token that follows; after a preemption, the remaining ones."""
    num_preemptions: int
    """Preemptions of the sequence when this was planned; its results are void after the next one."""


def make_chunk(sequence: Sequence, num_tokens: int, *, reaches_end: bool) -> Chunk:
    """Chunk of the next `num_tokens` tokens of a sequence; `reaches_end` if these are all that are expected."""
    start = sequence.num_planned
    end = start + num_tokens
    scored = range(0)
    if sequence.is_scoring:
        scored = range(max(start, len(sequence.prompt_scores)), min(end, sequence.num_prompt - 1))
    return Chunk(
        sequence=sequence,
        start=start,
        end=end,
        num_tokens=num_tokens,
        num_prompt_tokens=max(0, min(end, sequence.num_prompt) - start),
        samples=reaches_end and not sequence.only_scores,
        ends_scoring=reaches_end and sequence.only_scores,
        scored=scored,
        num_preemptions=sequence.num_preemptions,
    )


class StepPlan:
    """A step being planned: chunks by sequence id, and how many tokens are left in the budget."""

    def __init__(self, num_tokens: int) -> None:
        self.chunks: dict[int, Chunk] = {}
        self.budget = num_tokens

    def add(self, chunk: Chunk) -> None:
        self.chunks[chunk.sequence.id] = chunk
        self.budget -= chunk.num_tokens

    def drop(self, sequence: Sequence) -> None:
        """Remove the chunk of a sequence that was preempted meanwhile."""
        self.chunks.pop(sequence.id, None)


class Scheduler:
    """Plans running decodes first, then running and new prompts in their order; each until all its tokens are planned.

    There are no separate prefill and decode phases: one step may mix both. A running sequence always has memory.
    """

    def __init__(
        self,
        limits: StepLimits,
        kv: KVAllocator,
        order: AdmissionOrder,
        prefill_budget: PrefillBudget | None = None,
        adapters: AdapterSlots | None = None,
    ) -> None:
        self._limits = limits
        self._kv = kv
        self._order = order
        self._adapters = adapters or AdapterSlots(0)
        self._prefill_budget = prefill_budget or PrefillBudget(max_slowdown=0.0, most_tokens=limits.max_step_tokens)
        self._running: dict[int, Sequence] = {}
        self._max_running = limits.max_sequences
        self.num_preempted = 0
        self.num_cached_tokens = 0

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._order)

    @property
    def num_kv_tokens(self) -> int:
        return sum(sequence.num_computed for sequence in self._running.values())

    @property
    def has_work(self) -> bool:
        return bool(self._running) or len(self._order) > 0

    def add(self, sequence: Sequence) -> None:
        self._order.push(sequence)

    def plan(self) -> list[Chunk]:
        """Plan the next step, possibly empty; admits. It counts as submitted now, and as computed once committed."""
        self._make_room()
        plan = StepPlan(self._limits.max_step_tokens)
        prompts: list[Sequence] = []
        for sequence in list(self._running.values()):
            num_pending = sequence.num_pending
            if num_pending == 1:
                self._give(sequence, num_pending, plan)
            elif num_pending:
                prompts.append(sequence)
        plan.budget = min(plan.budget, self._prefill_budget.prompt_tokens(num_decoding=len(plan.chunks)))
        prompts.sort(key=self._order.rank, reverse=True)
        while plan.budget > 0 and (prompt := self._next_prompt(prompts)) is not None:
            self._give(prompt, prompt.num_pending, plan)
        return list(plan.chunks.values())

    def _next_prompt(self, prompts: list[Sequence]) -> Sequence | None:
        """The last of the running prompts, which are sorted by falling rank, or a new one if its rank is lower."""
        if self._can_admit() and (not prompts or self._order.head_rank() < self._order.rank(prompts[-1])):
            return self._admit()
        return prompts.pop() if prompts else None

    def is_current(self, chunk: Chunk) -> bool:
        """True if the sequence still runs and was not preempted since the chunk was planned."""
        sequence = chunk.sequence
        return self._running.get(sequence.id) is sequence and sequence.num_preemptions == chunk.num_preemptions

    def computed(self, chunk: Chunk) -> None:
        """Note that the step of this chunk has run."""
        chunk.sequence.num_computed = chunk.end
        self._kv.computed(chunk.sequence)

    def take_back(self) -> None:
        """Discard all steps that were planned and not committed; their tokens are planned again."""
        for sequence in self._running.values():
            sequence.take_back()

    def finish(self, sequence: Sequence, *, is_sound: bool = True) -> None:
        """End a running sequence and free its memory, which may be cached for others if it is sound."""
        del self._running[sequence.id]
        self._order.ended(sequence)
        self._kv.release(sequence, is_sound=is_sound)
        self._adapters.release(sequence.adapter)
        self._max_running = min(self._max_running + 1, self._limits.max_sequences)

    def remove(self, sequence_id: int) -> bool:
        """Forget a sequence, waiting or running. False if it is not here."""
        if sequence_id in self._running:
            self.finish(self._running[sequence_id])
            return True
        return self._order.remove(sequence_id) is not None

    def shrink(self) -> Sequence:
        """Preempt one sequence because memory is short; its KV is dropped. Raises `ValueError` if none is running.

        Fewer may run from now on; each one that ends raises their number by one again.
        """
        victim = self._order.over_served()
        if victim is None:
            raise ValueError("nothing runs that could be preempted")
        self._preempt(victim)
        self._max_running = max(1, self.num_running)
        return victim

    def check_integrity(self) -> None:
        """Raise `RuntimeError` when allocated memory and running sequences do not match."""
        self._kv.check_integrity()
        self._adapters.check_integrity()
        for sequence in self._running.values():
            self._kv.blocks_of(sequence.id)

    def _make_room(self) -> None:
        """Preempt one sequence of a tenant over its share for a tenant that runs less; at most one a step."""
        if not len(self._order) or self._can_admit():
            return
        victim = self._order.claim(places=self._max_running)
        if victim is not None:
            self._preempt(victim)

    def _preempt(self, victim: Sequence) -> None:
        self.finish(victim)
        victim.rewind()
        self._order.push_back_in(victim)
        self.num_preempted += 1

    def _give(self, sequence: Sequence, num_pending: int, plan: StepPlan) -> None:
        most = min(plan.budget, self._limits.max_logit_rows) if sequence.is_scoring else plan.budget
        num_tokens = min(num_pending, most)
        start = sequence.num_planned
        end = start + num_tokens
        if num_tokens <= 0 or not self._has_memory(sequence, end, plan):
            return
        chunk = make_chunk(sequence, num_tokens, reaches_end=num_tokens == num_pending)
        plan.add(chunk)
        sequence.num_planned = end
        sequence.num_in_flight += chunk.samples
        self._order.charge(sequence, start=start, num_tokens=num_tokens)

    def _has_memory(self, sequence: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        """Extend the memory of a sequence, if need be by preempting others; False if it was preempted itself."""
        if sequence.id not in self._running:  # another one took its memory in this very step
            return False
        while not self._kv.extend(sequence, num_tokens):
            victim = self._order.over_served()
            assert victim is not None  # it runs itself, and alone it could have extended
            self._preempt(victim)
            plan.drop(victim)
            if victim is sequence:
                return False
        return True

    def _can_admit(self) -> bool:
        head = self._order.head()
        if head is None or self.num_running >= self._max_running or not self._adapters.can_acquire(head.adapter):
            return False
        return self._kv.can_allocate(head)

    def _admit(self) -> Sequence:
        sequence = self._order.pop()
        self._adapters.acquire(sequence.adapter)
        sequence.begin(self._kv.allocate(sequence))
        if sequence.num_preemptions == 0:
            sequence.queued_s = time.monotonic() - sequence.arrived_s
            self.num_cached_tokens += sequence.num_cached
        self._running[sequence.id] = sequence
        return sequence
