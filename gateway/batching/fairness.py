"""Fair between tenants: whoever has been served least, by weight, is next.

The Virtual Token Counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), algorithm 2: every
tenant has a counter of the service it received; prompt tokens count once and generated tokens twice, over the tenant's
weight. A tenant that comes back from idling is lifted to the least of those that wait, so nobody saves up.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from gateway.batching.sequence import Sequence

PROMPT_COST, OUTPUT_COST = 1.0, 2.0
PRIORITY_LEAD = 4096.0
"""How much more service a tenant may have received for each step of priority: a bounded lead, never starvation.

A request with a deadline gives its tenant up to one step more while it is the next one."""
URGENT_LEAD = 64
"""Requests of its own tenant that the most urgent one may overtake."""
CLAIM_LAG = 256.0
"""Service that one which waited all along must be behind to push another out; until then places that become free do."""
_MOST_PREEMPTIONS = 4
"""Of one sequence in favour of others, so that it ends."""
_FEW_TENANTS = 1024


class TenantQueue:
    """One that waits, runs, or has received more than the least served one."""

    __slots__ = ("counter", "has_come", "listed", "priority", "running", "waiting", "weight")

    def __init__(self) -> None:
        self.counter = 0.0
        self.has_come = True
        """From idling, and got no place yet."""
        self.listed: float | None = None
        """Its lowest rank in the heap, if it is there."""
        self.weight = 1.0
        self.priority = 0
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}

    @property
    def is_active(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def rank(self) -> float:
        """The lower, the sooner."""
        return self.rank_with(self.waiting[0].urgency if self.waiting else 0.0)

    def rank_with(self, urgency: float) -> float:
        return self.counter - PRIORITY_LEAD * (self.priority + urgency)

    def line_up(self, sequence: Sequence) -> None:
        """Behind all of its own that came before it, but for those that it may overtake."""
        place = len(self.waiting)
        while place and _turn(self.waiting[place - 1]) > _turn(sequence):
            place -= 1
        self.waiting.insert(place, sequence)


class FairShare:
    """An `AdmissionOrder`. Of idle tenants only those are remembered that have been served more than the others."""

    def __init__(self) -> None:
        self._tenants: dict[str, TenantQueue] = {}
        self._heap: list[tuple[float, int, TenantQueue]] = []
        """Tenants that wait, by a rank that is at most theirs now; counters only grow, so it is mended on sight."""
        self._num_pushed = 0
        self._waiting: dict[int, TenantQueue] = {}
        self._running: dict[int, TenantQueue] = {}
        self._total_weight = 0.0
        self._floor = 0.0
        self._prune_at = _FEW_TENANTS

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, sequence: Sequence) -> None:
        tenant = self._enter(sequence)
        tenant.line_up(sequence)
        self._wait(tenant, sequence)

    def push_back_in(self, sequence: Sequence) -> None:
        tenant = self._enter(sequence)
        tenant.waiting.appendleft(sequence)
        self._wait(tenant, sequence)

    def head(self) -> Sequence | None:
        tenant = self._next()
        return tenant.waiting[0] if tenant is not None else None

    def head_rank(self) -> float:
        tenant = self._next()
        if tenant is None:
            raise IndexError("nobody waits")
        return tenant.rank

    def pop(self) -> Sequence:
        tenant = self._next()
        if tenant is None:
            raise IndexError("nobody waits")
        sequence = tenant.waiting.popleft()
        del self._waiting[sequence.id]
        self._floor = max(self._floor, tenant.counter)
        tenant.running[sequence.id] = sequence
        tenant.has_come = False
        self._running[sequence.id] = tenant
        return sequence

    def remove(self, sequence_id: int) -> Sequence | None:
        tenant = self._waiting.pop(sequence_id, None)
        if tenant is None:
            return None
        sequence = next(each for each in tenant.waiting if each.id == sequence_id)
        tenant.waiting.remove(sequence)
        self._leave(tenant)
        return sequence

    def charge(self, sequence: Sequence, *, start: int, num_tokens: int) -> None:
        """Positions of the prompt cost as prompt, later ones as output; what is computed anew costs nothing."""
        end, start = start + num_tokens, max(start, sequence.num_charged)
        if end <= start:
            return
        sequence.num_charged = end
        num_prompt = max(0, min(end, sequence.num_prompt) - start)
        tenant = self._running[sequence.id]
        tenant.counter += (PROMPT_COST * num_prompt + OUTPUT_COST * (end - start - num_prompt)) / tenant.weight

    def ended(self, sequence: Sequence) -> None:
        tenant = self._running.pop(sequence.id)
        del tenant.running[sequence.id]
        self._leave(tenant)

    def rank(self, sequence: Sequence) -> float:
        return self._running[sequence.id].rank_with(sequence.urgency)

    def claim(self, *, places: int) -> Sequence | None:
        """Whom to send back so that the head may run: the youngest of the tenant that is furthest over its share.

        Only a tenant that runs nothing may claim, and one place only: what it gets beyond comes with the places that
        others leave. One that comes from idling claims at once; among those that compete for long places become free
        anyway, and pushing each other out would be work done twice, so they claim when they lag.
        """
        claimant = self._next()
        if claimant is None or claimant.running:
            return None
        tenants = set(self._running.values())
        over = max(tenants, key=lambda tenant: len(tenant.running) - self._share(tenant, places), default=None)
        if over is None or len(over.running) - 1 < max(1, math.floor(self._share(over, places))):
            return None
        if not claimant.has_come and over.counter - claimant.counter < CLAIM_LAG:
            return None
        movable = (each for each in reversed(over.running.values()) if each.num_preemptions < _MOST_PREEMPTIONS)
        return next(movable, None)

    def over_served(self) -> Sequence | None:
        """The youngest of the tenant that runs most by weight, and among those of the one that received most."""
        tenants = set(self._running.values())
        most = max(tenants, key=lambda tenant: (len(tenant.running) / tenant.weight, tenant.rank_with(0)), default=None)
        return None if most is None else next(reversed(most.running.values()))

    def _share(self, tenant: TenantQueue, places: int) -> float:
        return places * tenant.weight / self._total_weight

    def _enter(self, sequence: Sequence) -> TenantQueue:
        tenant = self._tenants.get(sequence.share.tenant)
        if tenant is None:
            tenant = self._tenants[sequence.share.tenant] = TenantQueue()
        if tenant.is_active:
            self._total_weight -= tenant.weight
        else:
            tenant.counter = max(tenant.counter, self._least())
            tenant.has_come = True
        tenant.weight, tenant.priority = sequence.share.weight, sequence.share.priority
        self._total_weight += tenant.weight
        return tenant

    def _wait(self, tenant: TenantQueue, sequence: Sequence) -> None:
        self._waiting[sequence.id] = tenant
        if tenant.listed is None or tenant.rank < tenant.listed:
            self._num_pushed += 1
            tenant.listed = tenant.rank
            heapq.heappush(self._heap, (tenant.rank, self._num_pushed, tenant))

    def _next(self) -> TenantQueue | None:
        while self._heap:
            rank, number, tenant = self._heap[0]
            if not tenant.waiting:
                heapq.heappop(self._heap)
                tenant.listed = None
            elif rank < tenant.rank:
                tenant.listed = tenant.rank
                heapq.heapreplace(self._heap, (tenant.rank, number, tenant))
            else:
                return tenant
        return None

    def _least(self) -> float:
        """What a tenant that was idle is lifted to: the least served that waits, else what was served last."""
        tenant = self._next()
        return self._floor if tenant is None else tenant.counter

    def _leave(self, tenant: TenantQueue) -> None:
        if tenant.is_active:
            return
        self._total_weight -= tenant.weight
        if not self._waiting and not self._running:
            self._forget_all()
        elif len(self._tenants) >= self._prune_at:
            self._prune()

    def _forget_all(self) -> None:
        """Nobody is left who could have been served less."""
        self._tenants.clear()
        self._heap.clear()
        self._floor = self._total_weight = 0.0

    def _prune(self) -> None:
        """Forget idle tenants that would be lifted beyond their counters anyway."""
        least = self._least()
        self._tenants = {
            name: tenant for name, tenant in self._tenants.items() if tenant.is_active or tenant.counter > least
        }
        self._prune_at = max(_FEW_TENANTS, 2 * len(self._tenants))


def _turn(sequence: Sequence) -> float:
    return sequence.arrival - URGENT_LEAD * sequence.urgency
