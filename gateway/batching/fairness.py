"""Fair admission order: the tenant that was served least, by weight, is next.

The Virtual Token Counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), algorithm 2: every
tenant has a counter of the service it received; prompt tokens count once and generated tokens twice, over the tenant's
weight. A tenant that was idle is lifted to the least counter of those that wait, so idle time is not saved up.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from gateway.batching.sequence import Sequence

PROMPT_COST, OUTPUT_COST = 1.0, 2.0
PRIORITY_LEAD = 4096.0
"""Extra service that a tenant may have received for each step of priority: a bounded lead, never starvation.

A request with a deadline gives its tenant up to one step more while it is the next one.
"""
URGENT_LEAD = 64
"""Number of requests of its own tenant that the most urgent one may overtake."""
CLAIM_LAG = 256.0
"""Service by which a tenant that waited all along must lag to preempt another; until then it waits for free slots."""
_MOST_PREEMPTIONS = 4
"""Limit of preemptions of one sequence in favour of others, so that it ends."""
_FEW_TENANTS = 1024


class TenantQueue:
    """Counter and queues of a tenant that waits, runs, or has received more than the least-served one."""

    __slots__ = ("counter", "has_come", "listed", "priority", "running", "waiting", "weight")

    def __init__(self) -> None:
        self.counter = 0.0
        self.has_come = True
        """True if it was idle and has not been admitted since."""
        self.listed: float | None = None
        """Lowest rank of its entries in the heap, if it has any."""
        self.weight = 1.0
        self.priority = 0
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}

    @property
    def is_active(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def rank(self) -> float:
        """Rank for admission; lower goes first."""
        return self.rank_with(self.waiting[0].urgency if self.waiting else 0.0)

    def rank_with(self, urgency: float) -> float:
        return self.counter - PRIORITY_LEAD * (self.priority + urgency)

    def line_up(self, sequence: Sequence) -> None:
        """Queue a sequence behind those of its tenant that came before it, except those that it may overtake."""
        place = len(self.waiting)
        while place and _turn(self.waiting[place - 1]) > _turn(sequence):
            place -= 1
        self.waiting.insert(place, sequence)


class FairShare:
    """`AdmissionOrder` by least service. Idle tenants are kept only if they have been served more than the others."""

    def __init__(self) -> None:
        self._tenants: dict[str, TenantQueue] = {}
        self._heap: list[tuple[float, int, TenantQueue]] = []
        """Waiting tenants with a lower bound of their rank; counters only grow, so it is corrected when popped."""
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
        """Count prompt positions at the price of a prompt, later ones as output; recomputed tokens cost nothing."""
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
        """Sequence to preempt so that the head may run: the youngest of the tenant that is furthest over its share.

        Only a tenant that runs nothing may claim, and only one slot: it gets more as other sequences end. A tenant that
        was idle claims at once. Tenants that compete for long get slots anyway as sequences end, and preempting each
        other would repeat work, so they claim only when they lag.
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
        """The youngest sequence of the tenant that runs most by weight; on a tie, of the one that received most."""
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
        """Counter to which a tenant that was idle is lifted: the least-served waiting one's, else the last served."""
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
        """Reset all counters; called when no tenant is left that could have been served less."""
        self._tenants.clear()
        self._heap.clear()
        self._floor = self._total_weight = 0.0

    def _prune(self) -> None:
        """Forget idle tenants whose counters would be lifted anyway."""
        least = self._least()
        self._tenants = {
            name: tenant for name, tenant in self._tenants.items() if tenant.is_active or tenant.counter > least
        }
        self._prune_at = max(_FEW_TENANTS, 2 * len(self._tenants))


def _turn(sequence: Sequence) -> float:
    return sequence.arrival - URGENT_LEAD * sequence.urgency
