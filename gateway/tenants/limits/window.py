"""Rates over a sliding minute, and their `x-ratelimit-*` headers in OpenAI's format."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

import msgspec

MINUTE_S = 60


class SlidingMinute:
    """Counts by whole seconds, each until its last moment is a minute old: no minute ever exceeds the limit."""

    __slots__ = ("_seconds", "_total")

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque()  # [second, amount], oldest first
        self._total = 0

    def taken(self, now: float) -> int:
        while self._seconds and self._seconds[0][0] + MINUTE_S + 1 <= now:
            self._total -= self._seconds.popleft()[1]
        return self._total

    def take(self, amount: int, now: float) -> int:
        """Take an amount. Returns the second that it was counted in, for `give_back`."""
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1] += amount
        else:
            self._seconds.append([second, amount])
        self._total += amount
        return second

    def give_back(self, amount: int, second: int) -> None:
        """Give back an amount that was taken in that second, as far as it is still counted."""
        for entry in reversed(self._seconds):
            if entry[0] == second:
                entry[1] -= amount
                self._total -= amount
                return

    def wait_s(self, amount: int, limit: int, now: float) -> float:
        """Seconds until `amount`, which is no more than `limit`, fits if nothing else is taken; 0 if it does now."""
        surplus = self.taken(now) + amount - limit
        for second, held in self._seconds:
            if surplus <= 0:
                break
            surplus -= held
            freed_at = second + MINUTE_S + 1
            if surplus <= 0:
                return freed_at - now
        return 0.0

    def reset_s(self, now: float) -> float:
        """Seconds until nothing is counted any more."""
        self.taken(now)
        return self._seconds[-1][0] + MINUTE_S + 1 - now if self._seconds else 0.0


class RateStatus(msgspec.Struct, frozen=True):
    """A limit a minute, or none, and what was taken of it."""

    limit: int | None
    window: SlidingMinute


def rate_headers(
    unit: Literal["requests", "tokens"], rates: Sequence[RateStatus], now: float
) -> list[tuple[bytes, bytes]]:
    """Headers of the rate that has the least left; none without a rate."""
    found = [(rate.limit - rate.window.taken(now), rate.limit, rate.window) for rate in rates if rate.limit is not None]
    if not found:
        return []
    left, limit, window = min(found, key=lambda each: each[:2])
    return [
        (f"x-ratelimit-limit-{unit}".encode(), str(limit).encode()),
        (f"x-ratelimit-remaining-{unit}".encode(), str(max(0, left)).encode()),
        (f"x-ratelimit-reset-{unit}".encode(), _duration(window.reset_s(now)).encode()),
    ]


def _duration(seconds: float) -> str:
    """Format a duration: `6m0s`, `12s`, `350ms`."""
    if seconds < 1:
        return f"{round(1000 * seconds)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
