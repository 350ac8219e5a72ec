"""Admission control in front of an engine: bounded queues, estimated waits, and refusals that say when to retry."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator

from backends.errors import Overloaded, TenantQueueFull, WaitTooLong
from gateway.engine.config import EngineConfig

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


_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0


class _Guest:
    """A tenant with requests inside."""

    __slots__ = ("num_inside", "num_waiting", "weight")

    def __init__(self) -> None:
        self.num_inside = 0
        self.num_waiting = 0
        self.weight = 1.0


class Place:
    """One request inside, until it leaves."""

    __slots__ = ("_guest", "_is_left", "_is_let_in", "_room", "_seated_at", "_tenant", "is_waiting")

    def __init__(
        self, room: WaitingRoom, tenant: str, guest: _Guest, *, is_waiting: bool, is_let_in: bool, now: float
    ) -> None:
        self._room = room
        self._tenant = tenant
        self._guest = guest
        self._seated_at = now
        self._is_left = False
        self._is_let_in = is_let_in
        self.is_waiting = is_waiting
        """There was no place for it, and it has no output yet."""

    def start(self) -> None:
        """Its first output is there. May be called again."""
        if self.is_waiting and not self._is_left:
            self.is_waiting = False
            self._seated_at = self._room.started(self._guest, is_let_in=self._is_let_in)

    def leave(self) -> None:
        """The engine is done with it. May be called again."""
        if self._is_left:
            return
        self._is_left = True
        self._room.left(self._tenant, self._guest, seated_at=None if self.is_waiting else self._seated_at)


class WaitingRoom:
    """Counts requests from acceptance to their end. `now` gives monotonic seconds.

    A request waits if it came when all places were taken, until its first output. How long the next one would wait is
    predicted from the turnover of late: under `fcfs` all who wait are before it, under `fair` those of its own tenant,
    at the part of the turnover that is the tenant's by weight among those that wait.
    """

    def __init__(self, config: EngineConfig, *, now: Callable[[], float]) -> None:
        self._config = config
        self._now = now
        self._turnover = Turnover()
        self._seen_at = 0.0
        self._guests: dict[str, _Guest] = {}
        self._places = 1
        self._num_inside = 0
        self._num_waiting = 0
        self._waiting_weight = 0.0
        """Of tenants that wait."""

    @property
    def num_inside(self) -> int:
        return self._num_inside

    @property
    def num_waiting(self) -> int:
        return self._num_waiting

    @contextlib.contextmanager
    def place(
        self, *, tenant: str = "default", weight: float = 1.0, num_served: int, is_short: bool = False
    ) -> Generator[Place]:
        """Hold a place; `num_served` are served at once, fewer if memory `is_short`, and the others wait.

        Raises `TenantQueueFull`, `Overloaded` when too many wait, or `WaitTooLong`.
        """
        place = self._enter(tenant, weight, num_served, is_short=is_short)
        try:
            yield place
        finally:
            place.leave()

    def started(self, guest: _Guest, *, is_let_in: bool) -> float:
        """For a place. Returns the time."""
        now = self._pass_time()
        if not is_let_in:  # who was let in says nothing about how fast a queue moves
            self._turnover.start(places=self._places)
        self._wait_no_more(guest)
        return now

    def left(self, tenant: str, guest: _Guest, *, seated_at: float | None) -> None:
        """For a place; None if it never had one of those who are served."""
        now = self._pass_time()
        if seated_at is None:
            self._wait_no_more(guest)
        else:
            self._turnover.leave(now - seated_at)
        self._num_inside -= 1
        guest.num_inside -= 1
        if not guest.num_inside:
            del self._guests[tenant]

    def _enter(self, tenant: str, weight: float, places: int, *, is_short: bool) -> Place:
        now, self._places = self._pass_time(), places
        is_full = self._num_inside >= places
        if is_full:
            self._check_counts(tenant, weight)
        is_waiting, is_let_in = is_full or is_short, self._lets_in(tenant)
        if is_waiting and not is_let_in:
            self._check_wait(tenant, weight)
        guest = self._guests.setdefault(tenant, _Guest())
        guest.num_inside += 1
        self._num_inside += 1
        if is_waiting:
            self._wait(guest, weight)
        return Place(self, tenant, guest, is_waiting=is_waiting, is_let_in=is_let_in, now=now)

    def _lets_in(self, tenant: str) -> bool:
        """A tenant that runs nothing gets a place from those who run more than their share, while such are there."""
        return self._config.scheduling == "fair" and tenant not in self._guests and len(self._guests) < self._places

    def _check_counts(self, tenant: str, weight: float) -> None:
        config, guest = self._config, self._guests.get(tenant)
        if guest is not None and guest.num_waiting >= config.queue_per_tenant:
            raise TenantQueueFull(
                f"{guest.num_waiting} requests of this tenant wait for the model already, which is its own limit; "
                "send the next one when an answer has come",
                retry_after_s=_bounded(self._each_s() / self._share(guest, weight)),
            )
        if self._num_inside >= self._places + config.max_waiting:
            raise Overloaded(
                f"the engine is busy and {config.max_waiting} requests wait already; try again later",
                retry_after_s=_bounded(self._each_s()),
            )

    def _check_wait(self, tenant: str, weight: float) -> None:
        wait_s, target_s = self._wait_s(self._guests.get(tenant), weight), self._config.ttft_target_s
        if wait_s > target_s:
            raise WaitTooLong(
                f"the engine is busy: a first token would take about {wait_s:.0f} s, more than the {target_s:g} s "
                "that this server lets a request wait; try again later",
                retry_after_s=_bounded(wait_s - target_s),
            )

    def _wait_s(self, guest: _Guest | None, weight: float) -> float:
        """Predicted, for the next request of a tenant."""
        if self._config.scheduling == "fcfs":
            return self._each_s() * (self._num_waiting + 1)
        num_before = 0 if guest is None else guest.num_waiting
        return self._each_s() * (num_before + 1) / self._share(guest, weight)

    def _share(self, guest: _Guest | None, weight: float) -> float:
        """Of the turnover, if this tenant waits with the next request, too."""
        known = guest.weight if guest is not None and guest.num_waiting else 0.0
        return weight / (max(0.0, self._waiting_weight - known) + weight)

    def _each_s(self) -> float:
        return self._turnover.seconds_a_start(places=self._places)

    def _wait(self, guest: _Guest, weight: float) -> None:
        if not self._num_waiting:
            self._turnover.begin()
        if guest.num_waiting:
            self._waiting_weight -= guest.weight
        guest.weight = weight
        self._waiting_weight += weight
        guest.num_waiting += 1
        self._num_waiting += 1

    def _wait_no_more(self, guest: _Guest) -> None:
        guest.num_waiting -= 1
        self._num_waiting -= 1
        if not guest.num_waiting:
            self._waiting_weight -= guest.weight
        if not self._num_waiting:
            self._waiting_weight = 0.0  # whatever rounding left

    def _pass_time(self) -> float:
        now = self._now()
        if self._num_waiting:
            self._turnover.pass_time(now - self._seen_at)
        self._seen_at = now
        return now


def _bounded(seconds: float) -> float:
    """At least one, so that nobody hammers."""
    return min(max(seconds, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)
