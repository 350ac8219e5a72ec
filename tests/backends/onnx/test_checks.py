"""A step that violates the contract is refused before it reaches native code."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from backends.api import Runner
from backends.errors import CapacityExceeded, Fatal
from backends.testing.oracle import Oracle
from tests.backends.onnx.drive import Part, run, step_of

A = [11, 200, 45, 301, 7]
GOOD = step_of(Part(0, A), Part(2, [1]))


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_start": ints(0, 5, 7)}, "q_start"),
        ({"q_start": ints(1, 5, 6)}, "q_start"),
        ({"q_start": ints(0, 0, 6)}, "q_start"),
        ({"q_start": ints(0, 6)}, "speak of"),
        ({"kv_len": ints(4, 1)}, "less than the new tokens"),
        ({"slot": ints(0, 0)}, "distinct"),
        ({"slot": ints(0, 4)}, "within 0 to 3"),
        ({"slot": ints(-1, 2)}, "within 0 to 3"),
        ({"slot": ints(0)}, "speak of"),
        ({"token_ids": np.array([11, 200, 45, 301, 7, 512])}, "token id"),
        ({"token_ids": np.array([11, 200, 45, 301, 7, -1])}, "token id"),
        ({"positions": ints(0, 1, 2, 3, 5, 0)}, "positions"),
        ({"positions": ints(0, 1, 2, 3, 4)}, "speak of"),
        ({"logit_rows": ints(6)}, "logit row"),
        ({"logit_rows": ints(-1)}, "logit row"),
        ({"lora": ints(-1, 8)}, "adapter slots"),
        ({"kv_len": ints()}, "at least one"),
    ],
)
def test_broken_steps_are_fatal(runner: Runner, change: dict[str, np.ndarray], message: str) -> None:
    """The message says which array is wrong."""
    with pytest.raises(Fatal, match=message):
        runner.submit(msgspec.structs.replace(GOOD, **change))


def test_a_sequence_longer_than_its_slot_is_a_matter_of_capacity(runner: Runner, oracle: Oracle) -> None:
    """The engine can shrink, and the sequences that were there stay intact."""
    run(runner, Part(0, A))

    with pytest.raises(CapacityExceeded, match=r"260 tokens exceeds the planned context of 256"):
        runner.submit(step_of(Part(1, [1] * 5, start=255)))

    np.testing.assert_allclose(run(runner, Part(0, [9], start=5))[0], oracle.logits([*A, 9])[-1], atol=1e-4)


def test_more_verify_rows_than_declared_are_fatal(runner: Runner) -> None:
    """Sixteen are declared: sixteen of one sequence pass, seventeen do not."""
    tokens = list(range(20))
    assert run(runner, Part(0, tokens, rows=16), Part(1, tokens, rows=16)).shape == (32, 512)

    with pytest.raises(Fatal, match="more than 16 logit rows"):
        runner.submit(step_of(Part(0, tokens, rows=17)))
