"""A bounded queue in front of an engine: whoever does not fit is told so at once, with an honest time to come back."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator

from backends.errors import Overloaded

_REMEMBERED = 32
_LONGEST_WAIT_S = 60.0


class WaitingRoom:
    """Counts requests from acceptance to their end. `now` gives monotonic seconds."""

    def __init__(self, *, max_waiting: int, now: Callable[[], float]) -> None:
        self._max_waiting = max_waiting
        self._now = now
        self._num_inside = 0
        self._departures: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def num_inside(self) -> int:
        return self._num_inside

    @contextlib.contextmanager
    def place(self, *, num_served: int) -> Iterator[None]:
        """Hold a place; `num_served` are served at once, the others wait. Raises `Overloaded` when all are taken."""
        if self._num_inside >= num_served + self._max_waiting:
            raise Overloaded(
                f"the engine is busy and {self._max_waiting} requests wait already; try again later",
                retry_after_s=self._until_next_departure(),
            )
        self._num_inside += 1
        try:
            yield
        finally:
            self._num_inside -= 1
            self._departures.append(self._now())

    def _until_next_departure(self) -> float:
        """Seconds between the latest departures, on average; at least one, so that nobody hammers."""
        if not self._departures:
            return 1.0
        each = (self._now() - self._departures[0]) / len(self._departures)
        return min(max(each, 1.0), _LONGEST_WAIT_S)
