"""A runner that picks tokens itself changes nothing but where that happens."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from backends.api import F32, RowSampling, RunnerCapabilities, Step, StepResult, Ticket
from backends.errors import Fatal
from backends.generation import Sampling
from backends.testing.fake import FakeFaults, FakeRunner
from gateway.batching.loop import Loop
from gateway.batching.nucleus import draw
from gateway.engine.messages import Output
from tests.gateway.batching.making import (
    GREEDY,
    VOCAB,
    make_add,
    make_loop,
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


class PickingRunner(FakeRunner):
    """Picks on the host, by the rules that the contract gives to devices."""

    def __init__(self, faults: FakeFaults | None = None) -> None:
        super().__init__(faults)
        self.num_picked = 0
        self._sampling: RowSampling | None = None

    def capabilities(self) -> RunnerCapabilities:
        return msgspec.structs.replace(super().capabilities(), device_sampling=True, async_depth=2)

    def submit(self, step: Step) -> Ticket:
        self._sampling = step.sampling
        return super().submit(step)

    def collect(self, ticket: Ticket) -> StepResult:
        result = super().collect(ticket)
        if self._sampling is None:
            return result
        ids = [_pick(row, self._sampling, place) for place, row in enumerate(result.logits)]
        self.num_picked += len(ids)
        return StepResult(np.zeros((0, VOCAB), np.float32), np.array(ids, np.int64))


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

    assert [output.error for output in outputs if output.error] == ["engine_failed: non-finite logits"]


def test_a_runner_that_picks_nonsense_is_fatal() -> None:
    """A token beyond the vocabulary never reaches anybody."""
    loop, runner = make_picking_loop()
    loop.add(make_add(1, prompt=[1, 2]))
    runner.collect = lambda ticket: StepResult(np.zeros((0, VOCAB), np.float32), np.array([VOCAB]))  # type: ignore[method-assign]  # a broken runner

    with pytest.raises(Fatal, match="was to pick 1 tokens below 64"):
        run_all(loop)
