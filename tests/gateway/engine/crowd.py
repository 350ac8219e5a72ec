"""Simulates an engine behind admission control: slots, service times, and a clock that jumps."""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable

from backends.errors import Overloaded
from gateway.engine.client_side.admission_control import AdmissionControl, AdmissionTicket
from gateway.engine.config import EngineConfig, Scheduling


class Crowd:
    """Each admitted request takes a slot when one is free, shows its first output at once, and keeps it `held_s`."""

    def __init__(
        self,
        *,
        places: int,
        held_s: float,
        ttft_target_s: float = 1e9,
        max_waiting: int = 10**6,
        max_waiting_per_tenant: int = 10**6,
        scheduling: Scheduling = "fair",
    ) -> None:
        config = EngineConfig(
            max_waiting=max_waiting,
            max_waiting_per_tenant=max_waiting_per_tenant,
            ttft_target_s=ttft_target_s,
            scheduling=scheduling,
        )
        self.admission = AdmissionControl(config, now=lambda: self.now_s)
        self.now_s = 0.0
        self.held_s = held_s
        self.waits: dict[str, list[float]] = {}
        """Seconds to the first output, by tenant, of those that were admitted."""
        self.refusals: dict[str, list[Overloaded]] = {}
        self._places = places
        self._is_fair = scheduling == "fair"
        self._queues: dict[str, deque[tuple[float, AdmissionTicket, contextlib.ExitStack]]] = {}
        self._weights: dict[str, float] = {}
        self._served: dict[str, float] = {}
        self._ends: list[tuple[float, int, contextlib.ExitStack]] = []
        self._numbers = itertools.count()

    @property
    def num_running(self) -> int:
        return len(self._ends)

    def come(self, tenant: str, *, weight: float = 1.0) -> bool:
        """Submit a request; true if it was admitted."""
        stack = contextlib.ExitStack()
        try:
            ticket = stack.enter_context(self.admission.admit(tenant=tenant, weight=weight, num_served=self._places))
        except Overloaded as refusal:
            self.refusals.setdefault(tenant, []).append(refusal)
            return False
        self._served.setdefault(tenant, max([0.0, *map(self._served.__getitem__, self._queues)]))
        self._queues.setdefault(tenant, deque()).append((self.now_s, ticket, stack))
        self._weights[tenant] = weight
        self._fill()
        return True

    def pass_time(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self._ends and self._ends[0][0] <= until_s:
            self.now_s, _, stack = heapq.heappop(self._ends)
            stack.close()
            self._fill()
        self.now_s = until_s

    def empty(self) -> None:
        """Pass time until the last request has ended."""
        while self._ends:
            self.pass_time(self.held_s)

    def _fill(self) -> None:
        while len(self._ends) < self._places and self._queues:
            tenant = min(self._queues, key=self._turn())
            came_s, ticket, stack = self._queues[tenant].popleft()
            if not self._queues[tenant]:
                del self._queues[tenant]
            self._served[tenant] += 1 / self._weights[tenant]
            self.waits.setdefault(tenant, []).append(self.now_s - came_s)
            ticket.start()
            heapq.heappush(self._ends, (self.now_s + self.held_s, next(self._numbers), stack))

    def _turn(self) -> Callable[[str], float]:
        return (lambda tenant: self._served[tenant]) if self._is_fair else (lambda tenant: self._queues[tenant][0][0])
