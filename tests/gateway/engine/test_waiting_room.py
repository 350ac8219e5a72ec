"""A full room is an answer."""

from __future__ import annotations

import contextlib

import pytest

from backends.errors import Overloaded
from gateway.engine.waiting_room import WaitingRoom


def test_full_room_refuses_and_says_when() -> None:
    """Two served, one waiting: the fourth is told the usual time between departures."""
    now_s = 0.0
    room = WaitingRoom(max_waiting=1, now=lambda: now_s)
    for _ in range(3):
        with room.place(num_served=2):
            now_s += 4.0
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(room.place(num_served=2))

        with pytest.raises(Overloaded) as refusal, room.place(num_served=2):
            pass

        assert refusal.value.retry_after_s == pytest.approx(8 / 3)
    assert room.num_inside == 0


def test_place_is_free_after_an_error() -> None:
    """Whatever ends a request, its place comes back."""
    room = WaitingRoom(max_waiting=0, now=lambda: 0.0)
    with pytest.raises(KeyError), room.place(num_served=1):
        raise KeyError

    with room.place(num_served=1):
        assert room.num_inside == 1
