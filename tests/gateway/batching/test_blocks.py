"""Slots are handed out once, the lowest first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batching.blocks import Slots


def test_lowest_free_slot_comes_first() -> None:
    """A freed low slot is used before a fresh high one."""
    slots = Slots(num_slots=3, slot_tokens=8)
    for number in (10, 11, 12):
        slots.reserve(number, 8)
    slots.release(11)
    slots.release(10)

    slots.reserve(13, 1)

    assert slots.slot_of(13) == 0
    slots.check_integrity()


def test_full_house_cannot_reserve() -> None:
    """Without a free slot the question says no and the deed is refused."""
    slots = Slots(num_slots=1, slot_tokens=8)
    slots.reserve(1, 8)

    assert not slots.can_reserve(1)
    assert slots.can_ever_reserve(8)
    with pytest.raises(ValueError, match="no slot"):
        slots.reserve(2, 1)
    slots.check_integrity()


def test_sequence_that_is_too_long_is_refused() -> None:
    """A slot never holds more tokens than it has room for."""
    slots = Slots(num_slots=1, slot_tokens=8)

    assert not slots.can_reserve(9)
    assert not slots.can_ever_reserve(9)


def test_second_slot_for_one_sequence_is_refused() -> None:
    """Reserving twice would lose a slot."""
    slots = Slots(num_slots=2, slot_tokens=8)
    slots.reserve(1, 1)

    with pytest.raises(ValueError, match="already has slot 0"):
        slots.reserve(1, 1)


@given(st.lists(st.integers(0, 9), max_size=60))
def test_nothing_is_lost(numbers: list[int]) -> None:
    """Whatever comes and goes, every slot is free or held exactly once."""
    slots, held = Slots(num_slots=4, slot_tokens=8), set[int]()
    for number in numbers:
        if number in held:
            slots.release(number)
            held.remove(number)
        elif slots.can_reserve(8):
            slots.reserve(number, 8)
            held.add(number)
        slots.check_integrity()

        assert slots.num_free == 4 - len(held)
