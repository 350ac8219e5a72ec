"""Tokens and money of a day and a month."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import QuotaExceeded, RateLimited
from gateway.tenants.limits.budgets import Amount, Budgets, HeldBudget, Spent
from gateway.tenants.limits.prices import DAY_S, span_of
from gateway.tenants.limits.subjects import Subject
from gateway.tenants.peers.shares import WHOLE, Granted, Shares
from gateway.tenants.policy import Limits

NOON = datetime(2026, 2, 27, 12, tzinfo=UTC).timestamp()
NIGHT_S = DAY_S / 2


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class ServedApp:
    """Budgets of one tenant at a time that stands still."""

    def __init__(self, *, tokens: int | None = None, month: int | None = None, cost: float | None = None) -> None:
        self.clock, self.shares = Clock(), Shares()
        self.budgets = Budgets(self.shares, wall_clock=self.clock)
        limits = Limits(tokens_per_day=tokens, tokens_per_month=month, cost_per_day=cost)
        self.subjects = [Subject("tenant a", limits, "tenant a")]

    def reserve(self, tokens: int, nanos: int = 0) -> list[HeldBudget]:
        self.budgets.check(self.subjects, Amount(tokens, nanos))
        return self.budgets.reserve(self.subjects, Amount(tokens, nanos))

    def spend(self, tokens: int, nanos: int = 0) -> None:
        self.budgets.settle(self.reserve(tokens, nanos), Amount(tokens, nanos))

    @property
    def left(self) -> int | None:
        return self.budgets.left(self.subjects, "tokens")

    def drained(self, tokens: int) -> None:
        """The store has these of the day."""
        spent = Spent(subject="tenant a", period="day", begins=span_of("day", NOON).begins, amount=Amount(tokens))
        self.budgets.end_drain(["tenant a"], [spent])


def test_a_reservation_counts_until_it_is_settled() -> None:
    """A reservation counts in full until it is settled; from then on only what was used does."""
    served_app = ServedApp(tokens=100)
    held = served_app.reserve(80)
    with pytest.raises(RateLimited, match="requests that run hold what is left"):
        served_app.reserve(30)
    served_app.budgets.settle(held, Amount(10))
    served_app.reserve(90)

    assert served_app.left == 0


def test_a_spent_budget_says_when_it_returns() -> None:
    """The error of a spent budget states the numbers and the seconds until midnight."""
    served_app = ServedApp(tokens=100)
    served_app.spend(95)

    with pytest.raises(
        QuotaExceeded, match=r"used 95 tokens of its budget of 100 tokens for this day, .* 2026-02-28T00:"
    ):
        served_app.reserve(6)
    with pytest.raises(QuotaExceeded) as caught:
        served_app.reserve(101)
    assert caught.value.retry_after_s == NIGHT_S
    served_app.spend(5)


def test_money() -> None:
    """Is shown in the operator's currency."""
    served_app = ServedApp(cost=0.5)
    served_app.spend(10**6, 400_000_000)

    with pytest.raises(QuotaExceeded, match=r"used 0\.4 of its budget of 0\.5 .* may take 0\.2"):
        served_app.reserve(1, 200_000_000)


def test_days_and_months_begin_anew() -> None:
    """Days and months begin at midnight UTC; a running request is charged to the day in which it ends."""
    served_app = ServedApp(tokens=100, month=150)
    served_app.spend(60)
    held = served_app.reserve(40)
    served_app.clock.now += NIGHT_S
    assert served_app.left == 50  # of the month; of the day 60, since a request still runs
    served_app.budgets.settle(held, Amount(40))
    assert served_app.left == 50
    served_app.clock.now += DAY_S

    assert datetime.fromtimestamp(served_app.clock.now, UTC).month == 3
    assert served_app.left == 100


def test_what_moves_to_the_store_counts_once() -> None:
    """Spending counts once while it is drained to the store, when it has arrived, and when the store failed."""
    served_app = ServedApp(tokens=100)
    served_app.spend(30)
    served_app.budgets.begin_drain()
    served_app.spend(20)
    assert served_app.left == 50
    served_app.drained(30)
    assert served_app.left == 50
    served_app.budgets.begin_drain()
    served_app.spend(5)
    served_app.budgets.begin_drain()  # the first attempt failed
    assert served_app.left == 45
    served_app.drained(55 + 15)  # another gateway spent fifteen

    assert served_app.left == 30


def test_a_share_of_what_is_left() -> None:
    """Another gateway grants the rest; the error does not claim that the budget is used up."""
    served_app = ServedApp(tokens=100)
    served_app.shares.take_over(Granted(WHOLE // 2, {}))
    served_app.spend(50)

    with pytest.raises(RateLimited):
        served_app.reserve(1)
    assert served_app.shares.take_wanted() == {"tenant a"}
    served_app.shares.take_over(Granted(WHOLE // 2, {"tenant a": WHOLE}))
    served_app.spend(50)
    with pytest.raises(QuotaExceeded):
        served_app.reserve(1)


def test_what_the_store_tells_first() -> None:
    """The store initialises new budgets only; those in use are unchanged, and yesterday's spending does not count."""
    served_app = ServedApp(tokens=100)
    today = span_of("day", NOON).begins
    old = Spent(subject="tenant a", period="day", begins=today - DAY_S, amount=Amount(99))
    new = Spent(subject="tenant b", period="day", begins=today, amount=Amount(70))
    other = Subject("tenant b", served_app.subjects[0].limits, "tenant b")
    unknown = served_app.budgets.unknown([*served_app.subjects, other])
    served_app.budgets.learn(unknown, [old, new])
    served_app.spend(10)
    served_app.budgets.learn([*served_app.subjects, other], [])

    assert unknown == [*served_app.subjects, other]
    assert served_app.budgets.unknown([*served_app.subjects, other]) == []
    assert served_app.left == 90
    assert served_app.budgets.left([other], "tokens") == 30


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=60), st.integers(1, 300))
def test_never_exceeded(requests: list[tuple[int, int]], limit: int) -> None:
    """Spent and reserved amounts stay within the budget, whatever is asked for at once."""
    served_app = ServedApp(tokens=limit)
    running: list[tuple[list[HeldBudget], int]] = []
    spent = 0
    for wanted, used in requests:
        try:
            running.append((served_app.reserve(wanted), min(wanted, used)))
        except (QuotaExceeded, RateLimited):
            assert spent + sum(held[0].amount for held, _ in running) + wanted > limit
        if len(running) > 3:
            held, amount = running.pop(0)
            served_app.budgets.settle(held, Amount(amount))
            spent += amount

        assert spent + sum(each[0].amount for each, _ in running) <= limit
