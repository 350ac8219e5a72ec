"""The sliding minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.tenants.limits.window import SlidingMinute


def test_a_minute() -> None:
    """Tokens taken count for a minute and up to a second more."""
    window = SlidingMinute()
    window.take(3, 10.5)

    assert [window.taken(now) for now in (10.5, 70.9, 71.0)] == [3, 3, 0]


def test_waiting() -> None:
    """The wait lasts until enough of the oldest has left the window."""
    window = SlidingMinute()
    window.take(4, 0.0)
    window.take(4, 10.0)

    assert window.wait_s(2, 10, 20.0) == 0
    assert window.wait_s(5, 10, 20.0) == 41.0
    assert window.wait_s(10, 10, 20.0) == 51.0
    assert window.reset_s(20.0) == 51.0
    assert window.wait_s(10, 10, 71.0) == 0


def test_giving_back() -> None:
    """Tokens are given back to the second they came from; what is no longer counted changes nothing."""
    window = SlidingMinute()
    first, second = window.take(5, 0.0), window.take(5, 30.0)
    window.give_back(2, second)
    window.taken(61.0)
    window.give_back(5, first)

    assert window.taken(61.0) == 3


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 4)), max_size=60), st.integers(1, 20))
def test_no_minute_holds_more(steps: list[tuple[float, int]], limit: int) -> None:
    """No client gets more than the limit in any sixty seconds, and each gets it after the wait."""
    window, now, taken = SlidingMinute(), 0.0, []
    for pause, amount in steps:
        now += pause
        if amount > limit:
            continue
        wait_s = window.wait_s(amount, limit, now)
        now += wait_s
        assert window.wait_s(amount, limit, now) == 0
        assert wait_s <= 61
        window.take(amount, now)
        taken.append((now, amount))
    for end, _ in taken:
        assert sum(amount for at, amount in taken if end - 60 < at <= end) <= limit
