"""The scheduler without an engine: steps take the time that a cost model says, tokens are all the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from backends.generation import Share
from gateway.batching.admission import AdmissionOrder
from gateway.batching.kv.slots import SlotAllocator
from gateway.batching.scheduler import Scheduler, StepLimits
from gateway.batching.sequence import Sequence
from tests.gateway.batching.making import VOCAB, make_add

MAX_CONTEXT = 4096
STEP_S, ROW_S, TOKEN_S = 0.010, 0.0005, 0.0002
"""A step, each sequence in it, and each of its tokens."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A request and when it comes, in seconds."""

    tenant: str
    at: float = 0.0
    num_prompt: int = 20
    max_tokens: int = 20
    weight: float = 1.0
    priority: int = 0
    deadline_s: float | None = None


class Simulation:
    """Runs jobs to their end, or until a time."""

    def __init__(self, order: AdmissionOrder, *, max_sequences: int = 8, max_step_tokens: int = 64) -> None:
        self._limits = limits = StepLimits(
            max_sequences=max_sequences, max_step_tokens=max_step_tokens, max_context=MAX_CONTEXT
        )
        self.scheduler = Scheduler(limits, SlotAllocator(num_slots=max_sequences, slot_tokens=MAX_CONTEXT), order)
        self.now = 0.0
        self.served: defaultdict[str, float] = defaultdict(float)
        """Service by tenant, as it is charged: prompt tokens once, output tokens twice; nothing twice."""
        self.first_token_s: dict[int, float] = {}
        self.ended_at: dict[int, float] = {}
        self.num_idle_places = 0
        self._service: dict[int, int] = {}

    def run(self, jobs: Iterable[Job], *, until: float = 1e9) -> None:
        coming = sorted(enumerate(jobs), key=lambda each: each[1].at)
        arrived: dict[int, Job] = {}
        while self.now < until and (coming or self.scheduler.has_work):
            if not self.scheduler.has_work:
                self.now = max(self.now, coming[0][1].at)
            while coming and coming[0][1].at <= self.now:
                number, job = coming.pop(0)
                arrived[number] = job
                self.scheduler.add(_sequence(number, job))
            self._step(arrived)

    def _step(self, jobs: dict[int, Job]) -> None:
        plan = self.scheduler.plan()
        self.scheduler.check_integrity()
        assert plan or not self.scheduler.has_work
        self.now += STEP_S + sum(ROW_S + TOKEN_S * chunk.num_tokens for chunk in plan)
        has_room = self.scheduler.num_running < self._limits.max_sequences
        has_tokens = sum(chunk.num_tokens for chunk in plan) < self._limits.max_step_tokens
        self.num_idle_places += bool(self.scheduler.num_waiting and has_room and has_tokens)
        for chunk in plan:
            self._count(chunk.sequence, chunk.end)
        sampling = [chunk.sequence for chunk in plan if chunk.samples]
        for chunk in plan:
            chunk.sequence.num_computed = chunk.end
        for sequence in sampling:
            sequence.append(1)
            job = jobs[sequence.id]
            self.first_token_s.setdefault(sequence.id, self.now - job.at)
            if sequence.finish_reason(max_context=MAX_CONTEXT) is not None:
                self.scheduler.finish(sequence)
                self.ended_at[sequence.id] = self.now

    def _count(self, sequence: Sequence, end: int) -> None:
        before = self._service.get(sequence.id, 0)
        for position in range(before, end):
            self.served[sequence.share.tenant] += 1 if position < sequence.num_prompt else 2
        self._service[sequence.id] = max(before, end)


def _sequence(number: int, job: Job) -> Sequence:
    add = make_add(number, prompt=range(job.num_prompt), max_tokens=job.max_tokens)
    share = Share(tenant=job.tenant, weight=job.weight, priority=job.priority)
    add = msgspec.structs.replace(add, share=share, deadline_s=job.deadline_s)
    return Sequence(add, arrival=number, vocab_size=VOCAB)
