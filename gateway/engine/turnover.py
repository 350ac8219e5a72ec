"""How soon the next one of those who wait is served, from what was seen of late."""

from __future__ import annotations

from collections import deque

_REMEMBERED = 16
"""Starts and places that the mean is taken over, at least."""


class Turnover:
    """Measures on a clock that runs only while somebody waits: quiet hours say nothing about how fast a queue moves.

    Whoever found a free place is not counted as a start, because that one's wait says nothing about the queue either.
    """

    def __init__(self) -> None:
        self._clock_s = 0.0
        self._last_start_s = 0.0
        self._starts: deque[float] = deque()
        self._held: deque[float] = deque(maxlen=_REMEMBERED)

    def pass_time(self, seconds: float) -> None:
        """So long somebody waited."""
        self._clock_s += seconds

    def begin(self) -> None:
        """Somebody waits again, after a time when nobody did."""
        self._last_start_s = self._clock_s

    def start(self, *, places: int) -> None:
        """One that waited has its first output."""
        self._last_start_s = self._clock_s
        self._starts.append(self._clock_s)
        while len(self._starts) > _window(places) + 1:
            self._starts.popleft()

    def leave(self, held_s: float) -> None:
        """A place is free that was held for so long."""
        self._held.append(held_s)

    def seconds_a_start(self, *, places: int) -> float:
        """0 while nothing is known.

        All places are held since the last start at least, so no mean can be below that time over their number. It
        tells of a load that has become heavier before any of it has ended.
        """
        return max(self._seen(places), (self._clock_s - self._last_start_s) / places)

    def _seen(self, places: int) -> float:
        window = _window(places)
        if len(self._starts) > window:
            return (self._starts[-1] - self._starts[-1 - window]) / window
        # Too few have waited yet: by Little's law, as many leave in a second as there are places over the time of each.
        return sum(self._held) / len(self._held) / places if self._held else 0.0


def _window(places: int) -> int:
    """At least one round of all places: those that were taken together become free together."""
    return max(_REMEMBERED, places)
