"""A step's arrays on the way to the device, on the CPU."""

from __future__ import annotations

import torch

from backends.torch.cuda.inputs import on_device, pad_decode, padding, resolve, starts, step_arrays, upload
from tests.backends.torch.cuda.drive import TABLES, Part, plan, step_of

CPU = torch.device("cpu")
RAGGED = step_of(Part(2, [5, 6, 7], start=14), Part(0, [8]), Part(3, [9, 10], start=30, rows=2))
DECODE = step_of(Part(2, [5], start=20), Part(0, [8]), Part(3, [9], start=30))


def test_arrays_survive_the_way() -> None:
    """Arrays arrive as the step has them, each at a multiple of 16 bytes."""
    arrays = step_arrays(RAGGED, plan(), tile_queries=2)

    arrived = on_device(arrays, upload(arrays, CPU))

    assert arrived.token_ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert arrived.positions.tolist() == [14, 15, 16, 0, 30, 31]
    assert arrived.kv_len.tolist() == [17, 1, 32]
    assert arrived.q_start.tolist() == [0, 3, 4, 6]
    assert arrived.logit_rows.tolist() == [2, 3, 4, 5]
    assert arrived.tile_sequence.tolist() == [0, 0, 1, 2]
    assert arrived.tile_query.tolist() == [0, 2, 0, 0]
    assert RAGGED.slot_map is not None
    assert arrived.slot_map.tolist() == RAGGED.slot_map.tolist()
    assert arrived.table_columns.t().tolist() == TABLES[[2, 0, 3], :2].tolist()
    assert all(start % 4 == 0 for start in starts(arrays))


def test_slots_are_a_table_of_one_block() -> None:
    """The slot is the sequence's only block in the slot layout, and its tokens lie in it by position."""
    step = step_of(Part(2, [5, 6], start=14), Part(0, [8]), layout="slot")

    arrays = step_arrays(step, plan("slot"), tile_queries=1)

    assert arrays.table_columns.tolist() == [[2, 0]]
    assert arrays.slot_map.tolist() == [2 * 64 + 14, 2 * 64 + 15, 0]


def test_padding_holds_and_writes_nothing() -> None:
    """Rows beyond the step have no key, no place to write, and one query each; the step's rows are as they were."""
    step = step_arrays(DECODE, plan(), tile_queries=1)

    padded = pad_decode(step, 4)

    assert padded.kv_len.tolist() == [21, 1, 31, 0]
    assert padded.slot_map.tolist() == [*step.slot_map, -1]
    assert padded.token_ids.tolist() == [5, 8, 9, 0]
    assert padded.q_start.tolist() == [0, 1, 2, 3, 4]
    assert padded.tile_sequence.tolist() == [0, 1, 2, 3]
    assert padded.table_columns[:, :3].tolist() == step.table_columns.tolist()


def test_a_narrow_table_is_the_head_of_a_wide_one() -> None:
    """A bucket's buffer has space for the longest context; a step fills its head, and every array lies where it did."""
    wide = padding(4, 9)
    buffer = torch.full((starts(wide)[-1],), -5, dtype=torch.int32)
    views = on_device(wide, buffer)

    upload(pad_decode(step_arrays(DECODE, plan(), tile_queries=1), 4), CPU, into=buffer)

    assert views.token_ids.tolist() == [5, 8, 9, 0]
    assert views.kv_len.tolist() == [21, 1, 31, 0]
    assert views.table_columns[:2, :3].T.tolist() == TABLES[[2, 0, 3], :2].tolist()
    assert (views.table_columns[2:] == -5).all()


def test_picked_tokens_take_their_places() -> None:
    """-1 - r becomes what row r picked, and 0 where it picked nothing; other ids stay."""
    token_ids = torch.tensor([7, -1, -3, -2, 0], dtype=torch.int32)

    resolve(token_ids, torch.tensor([40, -1, 42]))

    assert token_ids.tolist() == [7, 40, 42, 0, 0]


def test_nothing_picked_changes_nothing() -> None:
    """A missing or an empty tensor of picked tokens changes nothing."""
    token_ids = torch.tensor([7, 8], dtype=torch.int32)

    resolve(token_ids, None)
    resolve(token_ids, torch.zeros(0, dtype=torch.int64))

    assert token_ids.tolist() == [7, 8]
