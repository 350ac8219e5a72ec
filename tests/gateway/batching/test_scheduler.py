"""Tokens that the scheduler gives to sequences, their order and their limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.batching.admission import FirstComeFirstServed
from gateway.batching.kv.slots import SlotAllocator
from gateway.batching.scheduler import Chunk, Scheduler, StepLimits
from gateway.batching.sequence import Sequence
from tests.gateway.batching.making import VOCAB, make_add

MAX_CONTEXT = 64


def make_scheduler(*, max_sequences: int = 3, max_step_tokens: int = 8, num_slots: int = 3) -> Scheduler:
    limits = StepLimits(max_sequences=max_sequences, max_step_tokens=max_step_tokens, max_context=MAX_CONTEXT)
    return Scheduler(limits, SlotAllocator(num_slots=num_slots, slot_tokens=MAX_CONTEXT), FirstComeFirstServed())


def make_sequence(number: int, *, num_prompt: int, max_tokens: int = 8) -> Sequence:
    add = make_add(number, prompt=range(num_prompt), max_tokens=max_tokens)
    return Sequence(add, arrival=number, vocab_size=VOCAB)


def commit(scheduler: Scheduler, plan: list[Chunk]) -> list[int]:
    """Pretend that the step ran and every sampled token was 1; returns who ended."""
    sampling = [chunk.sequence for chunk in plan if chunk.samples]
    for chunk in plan:
        chunk.sequence.num_computed = chunk.end
    ended = []
    for sequence in sampling:
        sequence.append(1)
        if sequence.finish_reason(max_context=MAX_CONTEXT) is not None:
            scheduler.finish(sequence)
            ended.append(sequence.id)
    return ended


def shape(plan: list[Chunk]) -> list[tuple[int, int, int]]:
    return [(chunk.sequence.id, chunk.start, chunk.num_tokens) for chunk in plan]


def test_long_prompt_is_cut_into_chunks() -> None:
    """A prompt longer than a step takes several; only the last one samples."""
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, num_prompt=20))

    shapes, samples = [], []
    for _ in range(3):
        plan = scheduler.plan()
        shapes += shape(plan)
        samples += [chunk.samples for chunk in plan]
        commit(scheduler, plan)

    assert shapes == [(1, 0, 8), (1, 8, 8), (1, 16, 4)]
    assert samples == [False, False, True]


def test_decodes_come_before_prefill_chunks_before_newcomers() -> None:
    """A decoding sequence never waits for a prompt, a running prompt never for a new one."""
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, num_prompt=12))
    commit(scheduler, scheduler.plan())
    scheduler.add(make_sequence(2, num_prompt=2))
    commit(scheduler, scheduler.plan())
    scheduler.add(make_sequence(3, num_prompt=30))
    commit(scheduler, scheduler.plan())
    scheduler.add(make_sequence(4, num_prompt=2))

    plan = scheduler.plan()

    assert shape(plan) == [(1, 13, 1), (2, 3, 1), (3, 6, 6)]


def test_free_budget_admits_in_the_same_step() -> None:
    """The rest of a step's tokens goes to waiting sequences."""
    scheduler = make_scheduler()
    for number in (1, 2, 3):
        scheduler.add(make_sequence(number, num_prompt=3))

    plan = scheduler.plan()

    assert shape(plan) == [(1, 0, 3), (2, 0, 3), (3, 0, 2)]


def test_preempted_sequence_waits_first_and_starts_anew() -> None:
    """The youngest goes, forgets its KV, and is admitted before everyone who waits."""
    scheduler = make_scheduler()
    for number in (1, 2, 3, 4):
        scheduler.add(make_sequence(number, num_prompt=2))
    commit(scheduler, scheduler.plan())

    victim = scheduler.shrink()

    assert (victim.id, victim.num_computed, victim.num_known) == (3, 0, 3)
    commit(scheduler, scheduler.plan())
    assert scheduler.num_running == 2, "nobody is let in right after memory ran out"
    scheduler.remove(1)
    assert shape(scheduler.plan()) == [(2, 3, 1), (3, 0, 3), (4, 0, 2)]
    scheduler.check_integrity()


def test_limits_that_would_starve_a_decode_are_refused() -> None:
    """Every decoding sequence must fit into every step."""
    with pytest.raises(ValueError, match="max_sequences 9"):
        StepLimits(max_sequences=9, max_step_tokens=8, max_context=MAX_CONTEXT)


class SchedulerMachine(RuleBasedStateMachine):
    """Random additions, aborts, preemptions and steps."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = make_scheduler(num_slots=4, max_sequences=3)
        self.alive: dict[int, Sequence] = {}
        self.ended: set[int] = set()
        self.admitted: list[int] = []
        self.num_added = 0

    @rule(num_prompt=st.integers(1, 40), max_tokens=st.integers(1, 20))
    def add(self, num_prompt: int, max_tokens: int) -> None:
        self.num_added += 1
        sequence = make_sequence(self.num_added, num_prompt=num_prompt, max_tokens=max_tokens)
        self.alive[sequence.id] = sequence
        self.scheduler.add(sequence)

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if not self.alive:
            return
        number = data.draw(st.sampled_from(sorted(self.alive)))
        assert self.scheduler.remove(number)
        assert not self.scheduler.remove(number)
        self._end(number)

    @rule()
    def preempt(self) -> None:
        if self.scheduler.num_running:
            self.scheduler.shrink()

    @rule()
    def step(self) -> None:
        plan = self.scheduler.plan()
        assert bool(plan) == bool(self.alive), "whoever is there makes progress"
        assert sum(chunk.num_tokens for chunk in plan) <= 8
        assert len({chunk.sequence.id for chunk in plan}) == len(plan) <= 3
        assert all(chunk.num_tokens >= 1 and chunk.start == chunk.sequence.num_computed for chunk in plan)
        self.admitted += [chunk.sequence.id for chunk in plan if chunk.sequence.id not in self.admitted]
        for number in commit(self.scheduler, plan):
            self._end(number)

    @invariant()
    def rooms_are_sound(self) -> None:
        self.scheduler.check_integrity()
        assert self.scheduler.num_running + self.scheduler.num_waiting == len(self.alive)
        assert self.scheduler.num_running <= 3

    @invariant()
    def first_come_is_first_served(self) -> None:
        assert self.admitted == sorted(self.admitted)

    def teardown(self) -> None:
        for _ in range(10_000):
            if not self.alive:
                break
            self.step()
        assert self.ended == set(range(1, self.num_added + 1))
        assert not self.scheduler.has_work

    def _end(self, number: int) -> None:
        assert number not in self.ended
        self.ended.add(number)
        del self.alive[number]


SchedulerMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestScheduler: Any = SchedulerMachine.TestCase  # Any: hypothesis builds the class at run time
