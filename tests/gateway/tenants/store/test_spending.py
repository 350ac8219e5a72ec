"""Budget spending in the store, over both databases."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from sqlalchemy import text

from gateway.tenants.auth.directory import Directory
from gateway.tenants.limits.budgets import Amount
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.limits.prices import DAY_S, FREE, span_of
from gateway.tenants.peers.shares import Granted
from gateway.tenants.policy import Caller, Key, Limits, Policy, Tenant
from gateway.tenants.records import TenantSpec
from gateway.tenants.store.database import Database
from gateway.tenants.store.spending import forget_spending, read_spending
from gateway.tenants.store.tenants import create_tenant
from gateway.tenants.store.transaction import change
from gateway.tenants.store.usage import record_usage
from gateway.tenants.tasks.recorder import UsageRecorder
from gateway.tenants.tasks.refresh import Refresher
from gateway.tenants.usage.journal import Journal
from tests.gateway.tenants.store.conftest import ACTOR
from tests.gateway.tenants.usage.making import entry

SUBJECTS = ("tenant ten_a", "key key_a", "tenant ten_a demo")
LIMITS = Limits(tokens_per_day=100)


def caller(tenant_id: str) -> Caller:
    tenant = Tenant(id=tenant_id, name="a", policy=Policy(limits=LIMITS))
    return Caller(tenant=tenant, key=Key(id="key_a", tenant_id=tenant_id))


async def test_every_subject_of_a_request(database: Database) -> None:
    """A request is charged to its tenant, its key and its model, once, by the day and the month of its end."""
    now = time.time()
    entries = [entry(number, ended_at=now, cost_nanos=5) for number in range(3)]
    long_ago = entry(9, ended_at=now - 70 * DAY_S)
    async with database.session() as session:
        await record_usage(session, [*entries, long_ago])
        await record_usage(session, entries)
        found = await read_spending(session, SUBJECTS, now=now)

    assert {each.amount for each in found} == {Amount(39, 15)}
    assert {(each.subject, each.period) for each in found} == {(s, p) for s in SUBJECTS for p in ("day", "month")}
    assert {each.begins for each in found} == {span_of("day", now).begins, span_of("month", now).begins}


async def test_a_model_with_its_adapters(database: Database) -> None:
    """Budgets of a model are of all that it answered, with whatever adapter."""
    now = time.time()
    plain = entry(1, ended_at=now, cost_nanos=5)
    async with database.session() as session:
        await record_usage(session, [plain, msgspec.structs.replace(plain, id="2", model="demo:law")])
        found = await read_spending(session, ("tenant ten_a demo", "tenant ten_a demo:law"), now=now)

    assert {(each.subject, each.amount) for each in found} == {("tenant ten_a demo", Amount(26, 10))}


async def test_the_past_is_forgotten(database: Database) -> None:
    """Spending that no budget can need any more is deleted; the usage itself stays."""
    now = time.time()
    async with database.session() as session:
        await record_usage(session, [entry(1, ended_at=now), entry(2, ended_at=now - 100 * DAY_S)])
        await forget_spending(session, now=now)
        rows = (await session.execute(text("SELECT count(*) FROM spending"))).scalar()
        kept = (await session.execute(text("SELECT count(*) FROM usage"))).scalar()

    assert (rows, kept) == (6, 2)


async def test_a_gateway_begins_with_what_was_spent(database: Database, tmp_path: Path) -> None:
    """A gateway starts with what was spent: by itself, including a journal left by a crash, and by others."""
    async with change(database, ACTOR) as changes:
        tenant = await create_tenant(changes, TenantSpec(name="a", limits=LIMITS))
    now = time.time()
    async with database.session() as session:
        await record_usage(session, [entry(1, tenant_id=tenant.id, ended_at=now)])
    crashed = Journal(tmp_path)
    crashed.append(entry(2, tenant_id=tenant.id, ended_at=now))
    crashed.close()
    limiter = Limiter()
    await UsageRecorder(Journal(tmp_path), database, limiter).open()
    await Refresher(database, Directory(), limiter).refresh()

    assert limiter.room(caller(tenant.id), "demo", FREE) == 100 - 2 * 13


async def test_gateways_see_what_the_others_spent(database: Database, tmp_path: Path) -> None:
    """Each gateway sees the others' spending as soon as both have drained."""
    limiters = [Limiter(), Limiter()]
    keepers = [
        UsageRecorder(Journal(tmp_path / str(number)), database, limiter) for number, limiter in enumerate(limiters)
    ]
    for number, (limiter, keeper) in enumerate(zip(limiters, keepers, strict=True)):
        reservation = limiter.enter(caller("ten_a"), "demo")
        reservation.take(Amount(20))
        reservation.settle(Amount(13), ran=True)
        keeper.record(entry(number, ended_at=time.time()))
        await keeper.drain()
    limiters[0].shares.take_over(Granted(1, {"tenant ten_a": 1 << 16}))
    await keepers[0].drain()

    assert [limiter.room(caller("ten_a"), "demo", FREE) for limiter in limiters] == [74, 74]


async def test_usage_from_before_there_were_budgets(database: Database, url: str) -> None:
    """Counts towards this day and month."""
    now = time.time()
    async with database.session() as session:
        await record_usage(session, [entry(1, ended_at=now), entry(2, ended_at=now)])
        for statement in (
            "DROP TABLE spending",
            "DROP TABLE gateways",
            "DROP TABLE shares",
            "ALTER TABLE usage DROP COLUMN cost_nanos",
            "ALTER TABLE usage_hours DROP COLUMN cost_nanos",
            "UPDATE schema_version SET version_num = '0002'",
        ):
            await session.execute(text(statement))
    upgraded = Database(url)
    await upgraded.open()
    async with upgraded.session() as session:
        found = await read_spending(session, SUBJECTS, now=now)
    await upgraded.aclose()

    assert [each.amount for each in found] == [Amount(26, 0)] * 6
