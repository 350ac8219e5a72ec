"""Admission control in front of an engine: bounded queues, estimated waits, and refusals that say when to retry."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator

from backends.errors import Overloaded, TenantQueueFull, WaitTooLong
from gateway.engine.config import EngineConfig

_REMEMBERED = 16
"""Least number of starts and service times in the mean."""


class QueueWaitEstimate:
    """Estimates waits on a clock that runs only while requests wait: idle hours do not show how fast a queue moves.

    Requests that found a free slot are not counted as starts, because they did not wait in the queue.
    """

    def __init__(self) -> None:
        self._clock_s = 0.0
        self._last_start_s = 0.0
        self._starts: deque[float] = deque()
        self._held: deque[float] = deque(maxlen=_REMEMBERED)

    def pass_time(self, seconds: float) -> None:
        """Advance the clock by a time in which requests waited."""
        self._clock_s += seconds

    def begin(self) -> None:
        """Note that a request waits again, after a time without any."""
        self._last_start_s = self._clock_s

    def start(self, *, places: int) -> None:
        """Note that a waiting request has its first output."""
        self._last_start_s = self._clock_s
        self._starts.append(self._clock_s)
        while len(self._starts) > _window(places) + 1:
            self._starts.popleft()

    def leave(self, held_s: float) -> None:
        """Note that a slot is free that was in use for `held_s` seconds."""
        self._held.append(held_s)

    def seconds_a_start(self, *, places: int) -> float:
        """Estimated seconds between two starts; 0 while nothing is known.

        All slots have been in use since the last start at least, so the mean cannot be below that time over their
        number. This detects a heavier load before any of its requests has ended.
        """
        return max(self._seen(places), (self._clock_s - self._last_start_s) / places)

    def _seen(self, places: int) -> float:
        window = _window(places)
        if len(self._starts) > window:
            return (self._starts[-1] - self._starts[-1 - window]) / window
        # Too few have waited yet: by Little's law, as many end in a second as there are slots over the service time.
        return sum(self._held) / len(self._held) / places if self._held else 0.0


def _window(places: int) -> int:
    """Entries to average: at least one round of all slots, because slots taken together become free together."""
    return max(_REMEMBERED, places)


_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0


class _TenantQueue:
    """Counts of a tenant with accepted requests."""

    __slots__ = ("num_inside", "num_waiting", "weight")

    def __init__(self) -> None:
        self.num_inside = 0
        self.num_waiting = 0
        self.weight = 1.0


class AdmissionTicket:
    """Admission of one request, from acceptance until it leaves."""

    __slots__ = ("_admission", "_is_left", "_is_let_in", "_queue", "_seated_at", "_tenant", "is_waiting")

    def __init__(
        self,
        admission: AdmissionControl,
        tenant: str,
        queue: _TenantQueue,
        *,
        is_waiting: bool,
        is_let_in: bool,
        now: float,
    ) -> None:
        self._admission = admission
        self._tenant = tenant
        self._queue = queue
        self._seated_at = now
        self._is_left = False
        self._is_let_in = is_let_in
        self.is_waiting = is_waiting
        """True while it has no slot and no output yet."""

    def start(self) -> None:
        """Note its first output. May be called again."""
        if self.is_waiting and not self._is_left:
            self.is_waiting = False
            self._seated_at = self._admission.started(self._queue, is_let_in=self._is_let_in)

    def leave(self) -> None:
        """Note that the engine is done with it. May be called again."""
        if self._is_left:
            return
        self._is_left = True
        self._admission.left(self._tenant, self._queue, seated_at=None if self.is_waiting else self._seated_at)


class AdmissionControl:
    """Counts requests from acceptance to their end. `now` gives monotonic seconds.

    A request that came when all slots were taken waits until its first output. The wait of the next one is predicted
    from the recent rate of starts: under `fcfs` all waiting requests are before it, under `fair` those of its own
    tenant, at the tenant's share of the rate by weight among the waiting tenants.
    """

    def __init__(self, config: EngineConfig, *, now: Callable[[], float]) -> None:
        self._config = config
        self._now = now
        self._wait_estimate = QueueWaitEstimate()
        self._seen_at = 0.0
        self._queues: dict[str, _TenantQueue] = {}
        self._places = 1
        self._num_inside = 0
        self._num_waiting = 0
        self._waiting_weight = 0.0
        """Sum over tenants that wait."""

    @property
    def num_inside(self) -> int:
        return self._num_inside

    @property
    def num_waiting(self) -> int:
        return self._num_waiting

    @contextlib.contextmanager
    def admit(
        self, *, tenant: str = "default", weight: float = 1.0, num_served: int, is_short: bool = False
    ) -> Generator[AdmissionTicket]:
        """Admit a request; `num_served` are served at once, fewer if memory `is_short`, and the others wait.

        Raises `TenantQueueFull`, `Overloaded` when too many wait, or `WaitTooLong`.
        """
        ticket = self._enter(tenant, weight, num_served, is_short=is_short)
        try:
            yield ticket
        finally:
            ticket.leave()

    def started(self, queue: _TenantQueue, *, is_let_in: bool) -> float:
        """Note that a waiting request got a slot. Returns the time."""
        now = self._pass_time()
        if not is_let_in:  # requests that skip the queue say nothing about how fast it moves
            self._wait_estimate.start(places=self._places)
        self._wait_no_more(queue)
        return now

    def left(self, tenant: str, queue: _TenantQueue, *, seated_at: float | None) -> None:
        """Note that a request ended; `seated_at` is None if it never had a slot."""
        now = self._pass_time()
        if seated_at is None:
            self._wait_no_more(queue)
        else:
            self._wait_estimate.leave(now - seated_at)
        self._num_inside -= 1
        queue.num_inside -= 1
        if not queue.num_inside:
            del self._queues[tenant]

    def _enter(self, tenant: str, weight: float, places: int, *, is_short: bool) -> AdmissionTicket:
        now, self._places = self._pass_time(), places
        is_full = self._num_inside >= places
        if is_full:
            self._check_counts(tenant, weight)
        is_waiting, is_let_in = is_full or is_short, self._lets_in(tenant)
        if is_waiting and not is_let_in:
            self._check_wait(tenant, weight)
        queue = self._queues.setdefault(tenant, _TenantQueue())
        queue.num_inside += 1
        self._num_inside += 1
        if is_waiting:
            self._wait(queue, weight)
        return AdmissionTicket(self, tenant, queue, is_waiting=is_waiting, is_let_in=is_let_in, now=now)

    def _lets_in(self, tenant: str) -> bool:
        """True if a tenant that runs nothing gets a slot from tenants that run more than their share, if any."""
        return self._config.scheduling == "fair" and tenant not in self._queues and len(self._queues) < self._places

    def _check_counts(self, tenant: str, weight: float) -> None:
        config, queue = self._config, self._queues.get(tenant)
        if queue is not None and queue.num_waiting >= config.queue_per_tenant:
            raise TenantQueueFull(
                f"{queue.num_waiting} requests of this tenant already wait for the model, which is its limit; "
                "send the next one after a response has completed",
                retry_after_s=_bounded(self._each_s() / self._share(queue, weight)),
            )
        if self._num_inside >= self._places + config.max_waiting:
            raise Overloaded(
                f"the engine is busy and {config.max_waiting} requests already wait; try again later",
                retry_after_s=_bounded(self._each_s()),
            )

    def _check_wait(self, tenant: str, weight: float) -> None:
        wait_s, target_s = self._wait_s(self._queues.get(tenant), weight), self._config.ttft_target_s
        if wait_s > target_s:
            raise WaitTooLong(
                f"the engine is busy: the first token would take about {wait_s:.0f} s, more than the {target_s:g} s "
                "that requests may wait here; try again later",
                retry_after_s=_bounded(wait_s - target_s),
            )

    def _wait_s(self, queue: _TenantQueue | None, weight: float) -> float:
        """Predicted wait of a tenant's next request."""
        if self._config.scheduling == "fcfs":
            return self._each_s() * (self._num_waiting + 1)
        num_before = 0 if queue is None else queue.num_waiting
        return self._each_s() * (num_before + 1) / self._share(queue, weight)

    def _share(self, queue: _TenantQueue | None, weight: float) -> float:
        """Tenant's share of the rate of starts, if its next request waits, too."""
        known = queue.weight if queue is not None and queue.num_waiting else 0.0
        return weight / (max(0.0, self._waiting_weight - known) + weight)

    def _each_s(self) -> float:
        return self._wait_estimate.seconds_a_start(places=self._places)

    def _wait(self, queue: _TenantQueue, weight: float) -> None:
        if not self._num_waiting:
            self._wait_estimate.begin()
        if queue.num_waiting:
            self._waiting_weight -= queue.weight
        queue.weight = weight
        self._waiting_weight += weight
        queue.num_waiting += 1
        self._num_waiting += 1

    def _wait_no_more(self, queue: _TenantQueue) -> None:
        queue.num_waiting -= 1
        self._num_waiting -= 1
        if not queue.num_waiting:
            self._waiting_weight -= queue.weight
        if not self._num_waiting:
            self._waiting_weight = 0.0  # discard what rounding left

    def _pass_time(self) -> float:
        now = self._now()
        if self._num_waiting:
            self._wait_estimate.pass_time(now - self._seen_at)
        self._seen_at = now
        return now


def _bounded(seconds: float) -> float:
    """Clip to at least a second, so that clients do not retry too often."""
    return min(max(seconds, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)
