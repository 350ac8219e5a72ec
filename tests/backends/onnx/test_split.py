"""Steps that are cut into several runs of the graph, where attention pads."""

from __future__ import annotations

import numpy as np
import pytest

from backends.api import LoadableModel, Runner
from backends.kernels.library import SWITCH_VARIABLE
from backends.onnx.padding import split
from backends.testing.oracle import Oracle
from tests.backends.onnx.drive import Part, make_runner, run, step_of

LONG = list(range(300, 500))


@pytest.fixture(scope="module")
def wide(model: LoadableModel) -> Runner:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH_VARIABLE, "0")
        return make_runner(model, slots=16)


def test_a_long_chunk_among_many_rows_runs_by_itself(wide: Runner, oracle: Oracle) -> None:
    """The logits come back in the order asked for, whatever ran first."""
    before = wide.stats()["graph_runs"]
    short = [Part(slot, [slot, 7, 9], rows=2) for slot in (15, 3, 8)]

    logits = run(wide, short[0], Part(1, LONG, rows=3), *short[1:])

    assert wide.stats()["graph_runs"] - before == 2
    ends = [oracle.logits(part.tokens)[-2:] for part in short]
    expected = np.concatenate([ends[0], oracle.logits(LONG)[-3:], *ends[1:]])
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_each_long_chunk_runs_by_itself(wide: Runner, oracle: Oracle) -> None:
    """Two prompts in far slots do not pad everything between them."""
    before = wide.stats()["graph_runs"]

    logits = run(wide, Part(14, LONG), Part(0, LONG[:150]))

    assert wide.stats()["graph_runs"] - before == 2
    np.testing.assert_allclose(logits, [oracle.logits(LONG)[-1], oracle.logits(LONG[:150])[-1]], atol=1e-4)


def test_small_steps_are_left_alone() -> None:
    """Padding is cheaper than reading the weights twice."""
    step = step_of(Part(0, [1] * 40), Part(15, [2]))

    parts = split(step)

    assert len(parts) == 1
    assert parts[0][0] is step


def test_a_split_step_without_wanted_rows_returns_none(wide: Runner) -> None:
    """No wanted rows anywhere: nothing comes back."""
    assert run(wide, Part(0, LONG, rows=0), Part(15, [1], rows=0)).shape == (0, 512)
