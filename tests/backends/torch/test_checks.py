"""A step that violates the contract is refused before it indexes memory; all rules are in `backends.steps`."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from backends.api import Runner
from backends.errors import CapacityExceeded, Fatal
from backends.testing.oracle import Oracle
from tests.backends.torch.drive import TABLES, Part, run, step_of

A = [11, 200, 45, 301, 7]
GOOD = step_of(Part(0, A), Part(2, [1]))
assert GOOD.slot_map is not None
Change = dict[str, npt.NDArray[np.integer] | None]


def ints(*values: int) -> npt.NDArray[np.int32]:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_start": ints(0, 5, 7)}, "q_start"),
        ({"q_start": ints(1, 5, 6)}, "q_start"),
        ({"q_start": ints(0, 0, 6)}, "q_start"),
        ({"q_start": ints(0, 6)}, "speak of"),
        ({"kv_len": ints(4, 1)}, "less than the new tokens"),
        ({"slot": ints(0)}, "speak of"),
        ({"token_ids": np.array([11, 200, 45, 301, 7, 512])}, "token id"),
        ({"token_ids": np.array([11, 200, 45, 301, 7, -1])}, "refers to row 0, and the step before picked no"),
        ({"positions": ints(0, 1, 2, 3, 5, 0)}, "positions"),
        ({"positions": ints(0, 1, 2, 3, 4)}, "speak of"),
        ({"logit_rows": ints(6)}, "logit row"),
        ({"logit_rows": ints(-1)}, "logit row"),
        ({"logit_rows": ints(3, 3)}, "logit row"),
        ({"lora": ints(-1, 0)}, "adapter slots"),
        ({"kv_len": ints()}, "at least one"),
    ],
)
def test_broken_steps_are_fatal(runner: Runner, change: Change, message: str) -> None:
    """The message says which array is wrong, in either layout."""
    with pytest.raises(Fatal, match=message):
        runner.submit(msgspec.structs.replace(GOOD, **change))


@pytest.mark.parametrize("slots", [(0, 0), (0, 4), (-1, 2)])
def test_broken_slots_are_fatal(slotted: Runner, slots: tuple[int, int]) -> None:
    """Two sequences in a slot, or a slot that is not there."""
    with pytest.raises(Fatal, match="distinct numbers within 0 to 3"):
        slotted.submit(msgspec.structs.replace(GOOD, slot=ints(*slots)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_table": None}, "needs block_table"),
        ({"slot_map": None}, "needs block_table"),
        ({"block_table": TABLES[:1]}, "does not hold"),
        ({"block_table": TABLES[:2, :0]}, "does not hold"),
        ({"block_table": np.full((2, 1), 64, np.int32)}, "outside 0 to 63"),
        ({"block_table": np.full((2, 1), -1, np.int32)}, "outside 0 to 63"),
        ({"slot_map": GOOD.slot_map + 1}, "slot_map does not follow"),
        ({"slot_map": GOOD.slot_map[:-1]}, "slot_map does not follow"),
    ],
)
def test_broken_blocks_are_fatal(paged: Runner, change: Change, message: str) -> None:
    """Nothing is read or written outside the blocks that the table names."""
    with pytest.raises(Fatal, match=message):
        paged.submit(msgspec.structs.replace(GOOD, **change))


def test_two_writers_of_one_place_are_fatal(paged: Runner) -> None:
    """Shared blocks are read, not written."""
    tables = TABLES.copy()
    tables[2] = tables[0]

    with pytest.raises(Fatal, match="two sequences of the step write the same block"):
        paged.submit(step_of(Part(0, A), Part(2, [1]), tables=tables))


def test_a_sequence_longer_than_planned_is_a_matter_of_capacity(runner: Runner, oracle: Oracle) -> None:
    """The engine can shrink, and the sequences that were there stay intact."""
    run(runner, Part(0, A))

    with pytest.raises(CapacityExceeded, match=r"260 tokens exceeds the planned context of 256"):
        runner.submit(step_of(Part(1, [1] * 5, start=255)))

    np.testing.assert_allclose(run(runner, Part(0, [9], start=5))[0], oracle.logits([*A, 9])[-1], atol=1e-4)


def test_more_verify_rows_than_declared_are_fatal(runner: Runner) -> None:
    """Steps with as many verify rows as declared pass; one more does not."""
    most = runner.capabilities().max_verify_rows
    tokens = list(range(most + 6))
    assert run(runner, Part(0, tokens, rows=most), Part(1, tokens, rows=most)).shape == (2 * most, 512)

    with pytest.raises(Fatal, match=f"more than {most} logit rows"):
        runner.submit(step_of(Part(0, tokens, rows=most + 1)))
