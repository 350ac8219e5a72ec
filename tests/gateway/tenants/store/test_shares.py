"""Gateways that share limits through the store, over both databases."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import RateLimited
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.peers.shares import WHOLE
from gateway.tenants.policy import Caller, Key, Limits, Policy, Tenant
from gateway.tenants.store.database import Database
from gateway.tenants.tasks.background import in_background
from gateway.tenants.tasks.peers import PeerSync

LIMIT = 40
CALLER = Caller(
    tenant=Tenant(id="a", name="a", policy=Policy(limits=Limits(requests_per_minute=LIMIT))),
    key=Key(id="k", tenant_id="a"),
)


class Gate:
    """A gateway, as far as limits go."""

    def __init__(self, database: Database) -> None:
        self.limiter = Limiter()
        self.peer_sync = PeerSync(database, self.limiter)

    async def ask(self, count: int) -> int:
        """Number of requests that may run, of `count` in a row."""
        served = 0
        for _ in range(count):
            try:
                await self.limiter.shares.granted_soon(lambda: self.limiter.enter(CALLER, "demo"))
            except RateLimited:
                return served
            served += 1
        return served


@pytest.fixture
async def gates(database: Database) -> list[Gate]:
    """Three that know each other."""
    gates = [Gate(database) for _ in range(3)]
    for _ in range(3):
        for gate in gates:
            await gate.peer_sync.sync()
    return gates


async def test_equal_parts(gates: list[Gate]) -> None:
    """Gateways have equal shares as soon as each knows all others."""
    assert [gate.limiter.shares.of("anybody") for gate in gates] == [WHOLE // 3] * 3


async def test_the_limit_holds_over_all(gates: list[Gate]) -> None:
    """All gateways together grant the limit, however unequally they are asked, also all of it by one."""
    async with in_background(*(gate.peer_sync.run for gate in gates)):
        alone = await gates[0].ask(LIMIT * 2)
        others = await asyncio.gather(gates[1].ask(2), gates[2].ask(2))

    assert alone == LIMIT
    assert sum(others) == 0


async def test_one_that_leaves(gates: list[Gate], database: Database) -> None:
    """The others have its part at once; of one that only falls silent, when it counts as dead."""
    await gates[2].peer_sync.leave()
    await gates[0].peer_sync.sync()
    await gates[1].peer_sync.sync()
    left = [gate.limiter.shares.of("anybody") for gate in gates[:2]]
    async with asyncio.timeout(60):
        while not gates[0].limiter.shares.are_whole:
            await asyncio.sleep(0.1)
            await gates[0].peer_sync.sync()

    assert left == [WHOLE // 2] * 2
    assert gates[0].limiter.shares.are_whole
