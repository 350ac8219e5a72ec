"""Decides who gets how many tokens in the next step. Knows no tensors."""

from __future__ import annotations

import time

import msgspec

from gateway.batching.admission import AdmissionOrder
from gateway.batching.blocks import KVRooms
from gateway.batching.sequence import Sequence


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """`max_step_tokens` ≥ `max_sequences`, so that every decoding sequence fits into every step."""

    max_sequences: int
    max_step_tokens: int
    max_context: int
    max_logit_rows: int = 1
    """Logit rows that one sequence may ask for in a step: how fast a prompt can be scored."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_sequences <= self.max_step_tokens:
            raise ValueError(f"max_sequences {self.max_sequences} is not within 1 to {self.max_step_tokens}")


class Chunk(msgspec.Struct, frozen=True):
    """The next `num_tokens` uncomputed tokens of a sequence, beginning at position `start`."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def end(self) -> int:
        return self.start + self.num_tokens

    @property
    def samples(self) -> bool:
        """Whether it reaches the last known token, so that its logits give the next one."""
        return self.end == self.sequence.num_known and not self.sequence.only_scores

    @property
    def ends_scoring(self) -> bool:
        """Whether nothing is left to do for a sequence that only scores its prompt."""
        return self.end == self.sequence.num_known and self.sequence.only_scores

    @property
    def scored(self) -> range:
        """Positions whose logits score the prompt token that follows; after a preemption, the rest of them."""
        if not self.sequence.is_scoring:
            return range(0)
        first = max(self.start, len(self.sequence.prompt_scores))
        return range(first, min(self.end, self.sequence.num_prompt - 1))


class Scheduler:
    """Running decodes first, then running prefill chunks, then admission; each until `computed == known`.

    No prefill or decode phase: one step may hold both. A sequence that is running has a room.
    """

    def __init__(self, limits: Limits, rooms: KVRooms, order: AdmissionOrder) -> None:
        self._limits = limits
        self._rooms = rooms
        self._order = order
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
        """The next step, possibly empty; admits. Nothing counts as computed before the step is committed."""
        self._make_room()
        chunks: list[Chunk] = []
        budget = self._limits.max_step_tokens
        prompts: list[Sequence] = []
        for sequence in self._running.values():
            if sequence.is_decoding:
                budget -= self._give(sequence, budget, chunks)
            else:
                prompts.append(sequence)
        for sequence in sorted(prompts, key=self._order.rank):
            budget -= self._give(sequence, budget, chunks)
        while budget > 0 and self._can_admit():
            budget -= self._give(self._admit(), budget, chunks)
        return chunks

    def computed(self, chunk: Chunk) -> None:
        """Its step was run."""
        chunk.sequence.num_computed = chunk.end
        self._rooms.computed(chunk.sequence)

    def finish(self, sequence: Sequence, *, is_sound: bool = True) -> None:
        """It ended; its room is free, and what it holds may serve others if it is sound."""
        del self._running[sequence.id]
        self._order.ended(sequence)
        self._rooms.release(sequence, is_sound=is_sound)
        self._max_running = min(self._max_running + 1, self._limits.max_sequences)

    def remove(self, sequence_id: int) -> bool:
        """Forget a sequence, waiting or running. False if it is not here."""
        if sequence_id in self._running:
            self.finish(self._running[sequence_id])
            return True
        return self._order.remove(sequence_id) is not None

    def shrink(self) -> Sequence:
        """Memory is short: send one back to wait, without its KV. Raises `ValueError` if none is running.

        Fewer may run from now on; each one that ends raises their number by one again.
        """
        victim = self._order.over_served()
        if victim is None:
            raise ValueError("nothing runs that could be preempted")
        self._preempt(victim)
        self._max_running = max(1, self.num_running)
        return victim

    def check_integrity(self) -> None:
        """Raise `RuntimeError` when rooms and running sequences do not match."""
        self._rooms.check_integrity()
        for sequence in self._running.values():
            self._rooms.slot_of(sequence.id)

    def _make_room(self) -> None:
        """For a tenant that runs less than its share, at the cost of one that runs more; one sequence a step."""
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

    def _give(self, sequence: Sequence, budget: int, chunks: list[Chunk]) -> int:
        most = min(budget, self._limits.max_logit_rows) if sequence.is_scoring else budget
        num_tokens = min(sequence.num_pending, most)
        if num_tokens > 0:
            chunks.append(Chunk(sequence, sequence.num_computed, num_tokens))
            self._order.charge(sequence, start=sequence.num_computed, num_tokens=num_tokens)
        return num_tokens

    def _can_admit(self) -> bool:
        head = self._order.head()
        return head is not None and self.num_running < self._max_running and self._rooms.can_reserve(head.max_known)

    def _admit(self) -> Sequence:
        sequence = self._order.pop()
        sequence.num_computed = self._rooms.reserve(sequence)
        if sequence.num_preemptions == 0:
            sequence.queued_s = time.monotonic() - sequence.arrived_s
            sequence.num_cached = sequence.num_computed
            self.num_cached_tokens += sequence.num_cached
        self._running[sequence.id] = sequence
        return sequence
