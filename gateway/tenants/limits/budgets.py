"""Budgets of tokens and money for a UTC day and month. A budget is never exceeded by one gateway.

A request reserves the most that it can cost before it runs, and settles its actual cost at its end.

```
limit  [ stored ][ leaving ][ settled ][ reserved ][ free ... ]
         in the     being       since      by requests
         store      written     then       that run
```
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from gateway.errors import QuotaExceeded, RateLimited, ShareTooSmall
from gateway.tenants.limits.prices import NANOS, Period, span_of
from gateway.tenants.limits.subjects import Subject
from gateway.tenants.peers.shares import WHOLE, Shares
from gateway.tenants.policy import Limits

Unit = Literal["tokens", "cost"]
_RETRY_S = 1.0
_TOUCHED_S = 120.0


class Amount(msgspec.Struct, frozen=True):
    """Cost of a request: tokens, and billionths of the currency."""

    tokens: int = 0
    nanos: int = 0

    def of(self, unit: Unit) -> int:
        return self.tokens if unit == "tokens" else self.nanos


NOTHING, LEAST = Amount(0, 0), Amount(1, 1)


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Spending of one subject in a day or month, as stored."""

    subject: str
    period: Period
    begins: int
    amount: Amount


class Budget(msgspec.Struct, frozen=True):
    unit: Unit
    period: Period
    limit: int

    @property
    def kind(self) -> tuple[Unit, Period]:
        return self.unit, self.period


class Pot:
    """Use of one budget in its current day or month."""

    __slots__ = ("begins", "leaving", "reserved", "settled", "stored")

    def __init__(self) -> None:
        self.begins = self.stored = self.leaving = self.settled = self.reserved = 0

    def turn(self, begins: int) -> None:
        """Begin a new period; running requests count in it."""
        if begins > self.begins:
            self.begins, self.stored, self.leaving, self.settled = begins, 0, 0, 0

    @property
    def spent(self) -> int:
        return self.stored + self.leaving + self.settled


class HeldBudget(msgspec.Struct):
    """Part of a pot that a reservation has taken."""

    subject: str
    pot: Pot
    budget: Budget
    amount: int


Pots = dict[tuple[Unit, Period], Pot]


class Budgets:
    """Spending of all subjects with a budget. `wall_clock` gives Unix seconds."""

    def __init__(self, shares: Shares, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._shares = shares
        self._now = wall_clock
        self._pots: dict[str, Pots] = {}
        self._touched: dict[str, float] = {}

    def check(self, subjects: Iterable[Subject], amount: Amount = LEAST) -> None:
        """Raises `QuotaExceeded` if a budget has less left, `RateLimited` if others have reserved it for the moment."""
        for subject in subjects:
            for budget in budgets_of(subject.limits):
                self._check(subject, budget, amount.of(budget.unit))

    def reserve(self, subjects: Iterable[Subject], amount: Amount) -> list[HeldBudget]:
        """Reserve an amount. Call it after `check`."""
        held = [
            HeldBudget(subject.id, self._pot(subject.id, budget), budget, amount.of(budget.unit))
            for subject in subjects
            for budget in budgets_of(subject.limits)
        ]
        for each in held:
            each.pot.reserved += each.amount
        return held

    def settle(self, held: Iterable[HeldBudget], used: Amount) -> None:
        now = self._now()
        for each in held:
            self._touched[each.subject] = now
            each.pot.turn(span_of(each.budget.period, now).begins)
            each.pot.reserved -= each.amount
            each.pot.settled += used.of(each.budget.unit)

    def left(self, subjects: Iterable[Subject], unit: Unit) -> int | None:
        """Least that any budget in this unit has left; None without one."""
        return min(
            (
                self._left(subject.id, budget)
                for subject in subjects
                for budget in budgets_of(subject.limits)
                if budget.unit == unit
            ),
            default=None,
        )

    def active(self) -> list[str]:
        """Subjects with recent requests, whose spending is worth reading again."""
        oldest = self._now() - _TOUCHED_S
        self._touched = {subject: at for subject, at in self._touched.items() if at >= oldest}
        return list(self._touched)

    def begin_drain(self) -> None:
        """Mark settled amounts as being written to the store."""
        for subject in self._touched:
            for pot in self._pots[subject].values():
                pot.leaving, pot.settled = pot.leaving + pot.settled, 0

    def end_drain(self, subjects: Iterable[str], spent: Iterable[Spent]) -> None:
        """Note that they are stored, with what the store returned for these subjects; one without has spent nothing."""
        found = {(each.subject, each.period): each for each in spent}
        for subject in subjects:
            for (unit, period), pot in self._pots[subject].items():
                pot.leaving = 0
                pot.stored = _stored(found.get((subject, period)), unit, pot.begins)

    def unknown(self, subjects: Iterable[Subject]) -> list[Subject]:
        """Subjects with a budget whose spending is not known yet."""
        return [
            subject
            for subject in subjects
            if any(each.kind not in self._pots.get(subject.id, {}) for each in budgets_of(subject.limits))
        ]

    def learn(self, subjects: Iterable[Subject], spent: Iterable[Spent]) -> None:
        """Add the stored spending of unknown subjects. Known ones are not changed."""
        now, found = self._now(), {(each.subject, each.period): each for each in spent}
        for subject in subjects:
            pots = self._pots.setdefault(subject.id, {})
            for budget in budgets_of(subject.limits):
                if budget.kind not in pots:
                    pots[budget.kind] = pot = Pot()
                    pot.turn(span_of(budget.period, now).begins)
                    pot.stored = _stored(found.get((subject.id, budget.period)), budget.unit, pot.begins)

    def _check(self, subject: Subject, budget: Budget, amount: int) -> None:
        if amount <= self._left(subject.id, budget):
            return
        now, spent = self._now(), self._pot(subject.id, budget).spent
        reserved = self._pot(subject.id, budget).reserved
        if amount <= budget.limit - spent:
            is_elsewhere = amount <= budget.limit - spent - reserved
            if is_elsewhere:
                self._shares.want(subject.id)
            raise (ShareTooSmall if is_elsewhere else RateLimited)(
                f"requests that run hold what is left of the budget of {subject.what} for this {budget.period}; "
                "try again when they have ended",
                retry_after_s=_RETRY_S,
            )
        ends = span_of(budget.period, now).ends
        raise QuotaExceeded(_exceeded(subject, budget, spent, amount, ends), retry_after_s=ends - now)

    def _left(self, subject: str, budget: Budget) -> int:
        """Amount left: this gateway's share of what is not spent in the store, less its spending and reservations."""
        pot = self._pot(subject, budget)
        pot.turn(span_of(budget.period, self._now()).begins)
        share = (budget.limit - pot.stored) * self._shares.of(subject) // WHOLE
        return share - pot.leaving - pot.settled - pot.reserved

    def _pot(self, subject: str, budget: Budget) -> Pot:
        pots = self._pots.setdefault(subject, {})
        pot = pots.get(budget.kind)
        if pot is None:
            pot = pots[budget.kind] = Pot()
        return pot


def budgets_of(limits: Limits) -> list[Budget]:
    found = []
    if limits.tokens_per_day is not None:
        found.append(Budget("tokens", "day", limits.tokens_per_day))
    if limits.tokens_per_month is not None:
        found.append(Budget("tokens", "month", limits.tokens_per_month))
    if limits.cost_per_day is not None:
        found.append(Budget("cost", "day", round(limits.cost_per_day * NANOS)))
    if limits.cost_per_month is not None:
        found.append(Budget("cost", "month", round(limits.cost_per_month * NANOS)))
    return found


def _stored(spent: Spent | None, unit: Unit, begins: int) -> int:
    return spent.amount.of(unit) if spent is not None and spent.begins == begins else 0


def _exceeded(subject: Subject, budget: Budget, spent: int, amount: int, ends: int) -> str:
    until = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    numbers = [_shown(budget.unit, number) for number in (spent, budget.limit, amount)]
    return (
        f"{subject.what} has used {numbers[0]} of its budget of {numbers[1]} for this {budget.period}, and the request "
        f"may take {numbers[2]}; lower max_tokens, wait until {until}, or ask the operator of this server for more"
    )


def _shown(unit: Unit, number: int) -> str:
    return f"{number} tokens" if unit == "tokens" else f"{number / NANOS:g}"
