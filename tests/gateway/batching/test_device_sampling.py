"""A runner that picks tokens itself changes nothing but where that happens."""

from __future__ import annotations

from collections import deque

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.api import F32, LoadableModel, RowSampling, RunnerCapabilities, Step, StepResult, Ticket
from backends.errors import Fatal, RunnerError
from backends.generation import Sampling
from backends.testing.fake import FakeFaults, FakeRunner
from gateway.batching.loop import Loop
from gateway.batching.messages import Failure, Output
from gateway.batching.sampling.nucleus import draw
from tests.gateway.batching.making import (
    GREEDY,
    VOCAB,
    make_add,
    make_loop,
    make_paged_loop,
    make_runner,
    run_all,
    solo_tokens,
    tokens_of,
)

WISHES = (
    GREEDY,
    Sampling(temperature=0.7),
    Sampling(temperature=1.3, top_p=0.8, min_p=0.01),
    Sampling(temperature=1.0, top_k=3),
    Sampling(temperature=1.0, top_k=1),
)


class DeviceStep(msgspec.Struct):
    """A step that waits for its turn; what it gave, once it had it."""

    runner: PickingRunner
    step: Step
    number: int
    result: StepResult | RunnerError | None = None

    def take(self) -> StepResult:
        self.runner.run_until(self)
        assert self.result is not None
        if isinstance(self.result, RunnerError):
            raise self.result
        return self.result


class PickingRunner(FakeRunner):
    """A device: nothing is computed before a collect, and then in order, whatever was cancelled.

    It picks by the rules that the contract gives to devices.
    """

    def __init__(self, faults: FakeFaults | None = None) -> None:
        super().__init__(faults)
        self.num_picked = 0
        self.most_outstanding = 0
        self._waiting: deque[DeviceStep] = deque()
        self._picked = np.zeros(0, np.int64)

    def capabilities(self) -> RunnerCapabilities:
        return msgspec.structs.replace(super().capabilities(), device_sampling=True, async_depth=2)

    def submit(self, step: Step) -> Ticket:
        assert len(self._tickets) < 2, "more tickets than async_depth"
        return super().submit(step)

    def run(self, step: Step, model: LoadableModel, kv: npt.NDArray[np.uint64]) -> DeviceStep:
        self._num_submitted += 1
        self._waiting.append(DeviceStep(self, step, self._num_submitted))
        self.most_outstanding = max(self.most_outstanding, len(self._waiting))
        return self._waiting[-1]

    def run_until(self, last: DeviceStep) -> None:
        while last.result is None:
            self._run_now(self._waiting.popleft())

    def _run_now(self, waiting: DeviceStep) -> None:
        ids = waiting.step.token_ids
        before = self._picked[np.maximum(-1 - ids, 0)] if len(self._picked) else ids
        step = msgspec.structs.replace(waiting.step, token_ids=np.maximum(np.where(ids < 0, before, ids), 0))
        try:
            logits = self._compute(step, number=waiting.number)
        except RunnerError as error:
            waiting.result = error
            self._picked = np.full(len(waiting.step.logit_rows), -1)
            return
        if step.sampling is None:
            waiting.result = StepResult(logits)
            return
        self._picked = np.array([_pick(row, step.sampling, place) for place, row in enumerate(logits)], np.int64)
        self.num_picked += len(self._picked)
        waiting.result = StepResult(np.zeros((0, VOCAB), np.float32), self._picked)


def _pick(row: F32, rows: RowSampling, place: int) -> int:
    if not np.isfinite(row).all():
        return -1
    if rows.temperature[place] == 0:
        return int(row.argmax())
    wish = Sampling(
        temperature=float(rows.temperature[place]),
        min_p=float(rows.min_p[place]),
        top_k=int(rows.top_k[place]),
        top_p=float(rows.top_p[place]),
    )
    return draw(row, float(row.max()), wish, uniform=float(rows.uniform[place]))


def make_device_loop(faults: FakeFaults | None = None, *, num_blocks: int = 32) -> tuple[Loop, PickingRunner]:
    """Loop over blocks, so that a step may be in flight while the next one is planned."""
    runner = PickingRunner(faults)
    return make_paged_loop(runner, num_blocks=num_blocks, max_sequences=len(WISHES)), runner


def make_picking_loop(faults: FakeFaults | None = None) -> tuple[Loop, PickingRunner]:
    runner = make_runner(faults, kind=PickingRunner)
    assert isinstance(runner, PickingRunner)
    return make_loop(runner=runner), runner


def run_wishes(loop: Loop) -> list[Output]:
    for number, wish in enumerate(WISHES):
        loop.add(make_add(number, max_tokens=12, sampling=wish))
    return run_all(loop)


def test_picked_tokens_are_those_that_the_host_draws() -> None:
    """Every way of sampling that needs no logits, mixed in one batch."""
    loop, runner = make_picking_loop()

    outputs = run_wishes(loop)

    for number, wish in enumerate(WISHES):
        assert tokens_of(outputs, number) == solo_tokens(make_add(number, max_tokens=12, sampling=wish))
    assert runner.num_picked == 12 * len(WISHES)


@pytest.mark.parametrize("wish", [Sampling(logprobs=1), Sampling(presence_penalty=1.0), Sampling(logit_bias={3: 5.0})])
def test_who_needs_logits_gets_them(wish: Sampling) -> None:
    """One such sequence brings the steps that it shares back to the host."""
    loop, runner = make_picking_loop()
    loop.add(make_add(1, max_tokens=4, sampling=wish))
    loop.add(make_add(2, max_tokens=6))

    outputs = run_all(loop)

    assert tokens_of(outputs, 1) == solo_tokens(make_add(1, max_tokens=4, sampling=wish))
    assert tokens_of(outputs, 2) == solo_tokens(make_add(2, max_tokens=6))
    assert 0 < runner.num_picked < 6


def test_a_row_that_is_not_finite_ends_its_sequence() -> None:
    """The device says so by -1, and the others go on."""
    loop, _ = make_picking_loop(FakeFaults(nan_rows={6: 0}))

    outputs = run_wishes(loop)

    assert [output.error for output in outputs if output.error] == [Failure("engine_failed", "non-finite logits")]


def test_a_runner_that_picks_nonsense_is_fatal() -> None:
    """A token beyond the vocabulary never reaches a caller."""
    loop, runner = make_picking_loop()
    loop.add(make_add(1, prompt=[1, 2]))
    runner.collect = lambda ticket: StepResult(np.zeros((0, VOCAB), np.float32), np.array([VOCAB]))  # type: ignore[method-assign]  # a broken runner

    with pytest.raises(Fatal, match="was to pick 1 tokens below 64"):
        run_all(loop)


def test_the_next_step_is_planned_while_one_is_out() -> None:
    """Two steps at once, with tokens that are not known yet, give the same text as one by one."""
    loop, runner = make_device_loop()

    outputs = run_wishes(loop)

    assert runner.most_outstanding == 2
    for number, wish in enumerate(WISHES):
        assert tokens_of(outputs, number) == solo_tokens(make_add(number, max_tokens=12, sampling=wish))
    stats = loop.stats()
    assert stats.generated_tokens == 12 * len(WISHES)
    assert (stats.running, stats.waiting, stats.kv_tokens) == (0, 0, 0)


def test_slots_are_never_ahead() -> None:
    """Slots are copied and cut between steps, so no step with slots is submitted ahead."""
    loop, runner = make_picking_loop()

    run_wishes(loop)

    assert runner.most_outstanding == 1


def test_a_stop_token_ends_what_is_out_already() -> None:
    """The step behind it computed one more token, which is neither returned nor counted."""
    add = make_add(1, max_tokens=40)
    expected = solo_tokens(add)
    stop = expected[5]
    cut = expected.index(stop) + 1
    loop, _ = make_device_loop()
    loop.add(msgspec.structs.replace(add, stop_token_ids=(stop,)))
    loop.add(make_add(2, max_tokens=30))

    outputs = run_all(loop)

    assert tokens_of(outputs, 1) == expected[:cut]
    assert [output.finish_reason for output in outputs if output.id == 1][-1] == "stop"
    assert tokens_of(outputs, 2) == solo_tokens(make_add(2, max_tokens=30))
    assert loop.stats().generated_tokens == cut + 30


@pytest.mark.parametrize("wish", [Sampling(logprobs=1), Sampling(presence_penalty=1.0), Sampling(logit_bias={3: 5.0})])
def test_who_needs_logits_brings_steps_back_to_the_host(wish: Sampling) -> None:
    """Sampling of logits on the host works while a step is in flight, too."""
    loop, _ = make_device_loop()
    loop.add(make_add(1, max_tokens=12))
    for _ in range(3):
        loop.step()
    loop.add(make_add(2, max_tokens=4, sampling=wish))

    outputs = run_all(loop)

    assert tokens_of(outputs, 2) == solo_tokens(make_add(2, max_tokens=4, sampling=wish))


@pytest.mark.parametrize(
    "faults",
    [
        FakeFaults(capacity_at=(8, 20)),
        FakeFaults(retryable_at=(2, 7, 12)),
        FakeFaults(max_sequences=2),
    ],
)
def test_a_failed_step_takes_those_behind_it_along(faults: FakeFaults) -> None:
    """All of them are planned again, and no caller notices."""
    loop, _ = make_device_loop(faults)

    outputs = run_wishes(loop)

    for number, wish in enumerate(WISHES):
        assert tokens_of(outputs, number) == solo_tokens(make_add(number, max_tokens=12, sampling=wish))


def test_a_step_may_run_out_of_memory_when_all_have_left() -> None:
    """No sequence is left to preempt, and the engine goes on."""
    loop, _ = make_device_loop(FakeFaults(capacity_at=(1,)))
    loop.add(make_add(1, prompt=[1, 2]))
    loop.step()
    loop.abort(1)

    assert loop.step() == []
    loop.add(make_add(2))
    assert tokens_of(run_all(loop), 2) == solo_tokens(make_add(2))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.booleans()), max_size=40), st.integers(8, 32))
def test_whatever_comes_and_goes_ahead(events: list[tuple[int, int, bool]], num_blocks: int) -> None:
    """Sequences come, leave and push each other out while steps are out: who stays gets its own tokens."""
    loop, _ = make_device_loop(num_blocks=num_blocks)
    outputs: list[Output] = []
    aborted: set[int] = set()
    added: dict[int, int] = {}
    for kind, number, is_abort in events:
        if is_abort:
            loop.abort(number)
            aborted.add(number)
        elif number not in added and number not in aborted:
            added[number] = kind
            loop.add(make_add(number, max_tokens=10 + kind, sampling=WISHES[kind % len(WISHES)]))
        if loop.has_work:
            outputs += loop.step()
        loop.check_integrity()

    outputs += run_all(loop)

    for number, kind in added.items():
        expected = solo_tokens(make_add(number, max_tokens=10 + kind, sampling=WISHES[kind % len(WISHES)]))
        found = tokens_of(outputs, number)
        assert found == (expected[: len(found)] if number in aborted else expected)


@pytest.mark.parametrize("faults", [FakeFaults(retryable_at=(2,)), FakeFaults(capacity_at=(2,))])
def test_a_failed_step_loses_nothing_of_the_step_before(faults: FakeFaults) -> None:
    """Both are collected in one call, and only the second one fails: the token of the first one is sent."""
    biased = Sampling(temperature=0.0, logit_bias={5: 1.0})
    first, second = make_add(1, prompt=[1, 2, 3]), make_add(2, prompt=[4], sampling=biased)
    loop = make_paged_loop(PickingRunner(faults))
    assert loop.add(first) is None
    outputs = loop.step()
    assert not outputs  # the first step is in flight
    assert loop.add(second) is None

    outputs += run_all(loop)

    assert tokens_of(outputs, 1) == solo_tokens(first)
    assert tokens_of(outputs, 2) == solo_tokens(second)
