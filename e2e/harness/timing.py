"""Timed rows: medians of interleaved rounds and their thresholds, which are ratios and apply to any machine.

To the letter on an empty machine (`make test-timing`). A shared one sets HOSTELRY_TIMING_SLACK to the part of a
threshold that must be reached; a row then fails only if it misses that twice in a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from statistics import median

import msgspec

from e2e.harness.record import record

ROUNDS = 5
SLACK = float(os.environ.get("HOSTELRY_TIMING_SLACK") or 1.0)
NEAR = 0.6
"""Part of a threshold that one round of an honest target reaches wherever it runs; negative controls stay below."""

Measured = Mapping[str, float]


class Bar(msgspec.Struct, frozen=True):
    """A threshold for a ratio."""

    limit: float
    at_most: bool = False

    def reached_by(self, value: float, slack: float = 1.0) -> bool:
        return value <= self.limit / slack if self.at_most else value >= self.limit * slack

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"


class Row(msgspec.Struct, frozen=True):
    """One line of the table at the end of a run."""

    name: str
    value: float
    bar: Bar
    rounds: tuple[float, ...]

    @property
    def holds(self) -> bool:
        return self.bar.reached_by(self.value)

    def __str__(self) -> str:
        rounds = " ".join(f"{value:.2f}" for value in self.rounds)
        return f"{'holds ' if self.holds else 'MISSES'} {self.value:7.3f} {self.bar!s:>8}  {self.name}  [{rounds}]"


measured_rows: list[Row] = []
"""Rows of this run, in order; a row that was measured twice stands twice."""


def at_least(limit: float) -> Bar:
    return Bar(limit)


def at_most(limit: float) -> Bar:
    return Bar(limit, at_most=True)


def hold(measure: Callable[[], Measured], bars: Mapping[str, Bar], *, rounds: int = ROUNDS) -> None:
    """Assert that the median of every row over the rounds reaches its bar. `measure` is one round of all rows."""
    missed: list[Row] = []
    for attempt in range(1 if SLACK == 1 else 2):
        missed = _missed_of(_rows(measure, bars, rounds), attempt)
        if not missed:
            return
    assert not missed, "\n".join(map(str, missed))


def reach_nearly(measure: Callable[[], Measured], bars: Mapping[str, Bar], *, tries: int = 3) -> None:
    """Assert that one round of a few comes near every bar: enough to tell an honest target from a negative control."""
    missed: dict[str, float] = {}
    for _ in range(tries):
        seen = measure()
        missed = {name: value for name, value in seen.items() if not bars[name].reached_by(value, NEAR)}
        if not missed:
            return
    assert not missed, f"{missed}, bars { {name: str(bars[name]) for name in missed} }"


def _missed_of(rows: list[Row], attempt: int) -> list[Row]:
    """Rows that miss the part of their bar which must be reached; all are shown and recorded."""
    measured_rows.extend(rows)
    for row in rows:
        record("timing", row.name, value=round(row.value, 4), bar=str(row.bar), attempt=attempt + 1)
    return [row for row in rows if not row.bar.reached_by(row.value, SLACK)]


def _rows(measure: Callable[[], Measured], bars: Mapping[str, Bar], rounds: int) -> list[Row]:
    seen = [measure() for _ in range(rounds)]
    values = {name: tuple(each[name] for each in seen) for name in bars}
    return [Row(name, median(values[name]), bar, values[name]) for name, bar in bars.items()]
