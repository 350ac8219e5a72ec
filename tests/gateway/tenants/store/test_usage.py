"""Usage in the store, over both databases."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import TextClause, delete, text

from gateway.errors import UsageUnavailable
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.store.database import Database
from gateway.tenants.store.errors import StoreUnavailable, UnknownEntry
from gateway.tenants.store.tables import UsageHourRow, UsageRow
from gateway.tenants.store.usage import UsageSpan, list_usage, record_usage, sum_usage
from gateway.tenants.tasks import recorder as retention_module
from gateway.tenants.tasks.background import in_background
from gateway.tenants.tasks.recorder import DAY_S, Retention, UsageRecorder
from gateway.tenants.usage.journal import Journal
from tests.gateway.tenants.usage.making import entry

EVERYTHING = UsageSpan()


async def test_sums_by_group(database: Database) -> None:
    """Usage sums by any choice of tenant, key, model and hour, over a span, and in total."""
    entries = [
        entry(
            number,
            tenant_id=f"ten_{number % 2}",
            model=f"m{number % 3}",
            ended_at=3600.0 * number,
            completion_tokens=number,
        )
        for number in range(12)
    ]
    async with database.session() as session:
        await record_usage(session, entries)
        whole = await sum_usage(session, EVERYTHING, [])
        by_tenant = await sum_usage(session, EVERYTHING, ["tenant"])
        crossed = await sum_usage(session, EVERYTHING, ["tenant", "model"])
        of_one = await sum_usage(session, UsageSpan(tenant_id="ten_1", start=7200, end=18000), ["hour"])

    assert [(each.requests, each.prompt_tokens, each.completion_tokens) for each in whole] == [(12, 120, 66)]
    assert [(each.tenant, each.requests, each.completion_tokens) for each in by_tenant] == [
        ("ten_0", 6, 30),
        ("ten_1", 6, 36),
    ]
    assert Counter({(each.tenant, each.model): each.requests for each in crossed}) == Counter(
        (each.tenant_id, each.model) for each in entries
    )
    assert [(each.hour, each.completion_tokens) for each in of_one] == [(10800, 3)]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=6))
def test_each_request_once(tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]) -> None:
    """Rows and sums are those of the distinct requests, however often and in whatever batches a journal is read."""

    async def check() -> None:
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('usage')}/hostelry.db")
        await database.open()
        for batch in batches:
            async with database.session() as session:
                await record_usage(session, [entry(number, ended_at=3600.0 * (number % 3)) for number in batch])
        async with database.session() as session:
            rows = await list_usage(session, EVERYTHING, after="", limit=1000)
            sums = await sum_usage(session, EVERYTHING, [])
        await database.aclose()

        distinct = {number for batch in batches for number in batch}
        assert sorted(row.id for row in rows) == sorted(f"chatcmpl-{number}" for number in distinct)
        assert sum(each.requests for each in sums) == len(distinct)
        assert sum(each.completion_tokens for each in sums) == 3 * len(distinct)

    asyncio.run(check())


async def test_gateways_write_at_once(database: Database) -> None:
    """The same requests from many sides at the same moment count once."""

    async def write() -> None:
        async with database.session() as session:
            await record_usage(session, [entry(number) for number in range(50)])

    await asyncio.gather(*(write() for _ in range(5)))

    async with database.session() as session:
        (total,) = await sum_usage(session, EVERYTHING, [])
    assert (total.requests, total.prompt_tokens) == (50, 500)


async def test_pages_of_requests(database: Database) -> None:
    """Pages list requests in the order of their end, each once, also those that end together."""
    async with database.session() as session:
        await record_usage(session, [entry(number, ended_at=float(number // 3)) for number in range(9)])
        seen, after = [], ""
        while page := await list_usage(session, EVERYTHING, after=after, limit=2):
            seen += page
            after = page[-1].id

        assert [each.ended_at for each in seen] == sorted(each.ended_at for each in seen)
        assert len({each.id for each in seen}) == 9
        with pytest.raises(UnknownEntry, match="no usage"):
            await list_usage(session, EVERYTHING, after="nothing", limit=2)


async def test_the_journal_reaches_the_store(database: Database, tmp_path: Path) -> None:
    """Each entry of the journal reaches the store once, also when a gateway died between the commit and the removal of
    its file.
    """
    usage_recorder = UsageRecorder(Journal(tmp_path), database, Limiter())
    for number in range(5):
        usage_recorder.record(entry(number))
    written = _files(tmp_path)[0].read_bytes()
    await usage_recorder.drain()
    (tmp_path / "left-over.journal").write_bytes(written)
    await usage_recorder.drain()

    async with database.session() as session:
        (total,) = await sum_usage(session, EVERYTHING, [])
    assert total.requests == 5
    assert len(_files(tmp_path)) == 1


async def test_a_store_that_is_away(database: Database, tmp_path: Path) -> None:
    """Requests are still written down, and nothing is lost when it returns."""
    usage_recorder = UsageRecorder(Journal(tmp_path), database, Limiter())
    async with database.session() as session:
        await session.execute(_rename("usage", "gone"))
    usage_recorder.record(entry(1))
    with pytest.raises(StoreUnavailable):
        await usage_recorder.drain()
    usage_recorder.admit()
    usage_recorder.record(entry(2))
    async with database.session() as session:
        await session.execute(_rename("gone", "usage"))

    await usage_recorder.aclose()

    async with database.session() as session:
        (total,) = await sum_usage(session, EVERYTHING, [])
        assert total.requests == 2
        await session.execute(delete(UsageRow))
        await session.execute(delete(UsageHourRow))


async def test_what_cannot_be_written_down_is_not_served(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is admitted until its usage can be written down."""
    usage_recorder = UsageRecorder(Journal(tmp_path), database, Limiter())

    def refuse(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.tenants.usage.journal.os.write", refuse)
    usage_recorder.record(entry(1))
    with pytest.raises(UsageUnavailable, match="nothing is served"):
        usage_recorder.admit()
    monkeypatch.undo()
    async with in_background(usage_recorder.run), asyncio.timeout(60):
        while usage_recorder.journal.is_broken:  # noqa: ASYNC110  a journal has no event for it
            await asyncio.sleep(0.01)

    usage_recorder.admit()
    await usage_recorder.drain()
    async with database.session() as session:
        assert [each.id for each in await list_usage(session, EVERYTHING, after="", limit=9)] == ["chatcmpl-1"]


async def test_a_slow_disk(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain requested while the journal is being written to disk is complete none the less."""
    usage_recorder = UsageRecorder(Journal(tmp_path), database, Limiter())
    begun, go_on = threading.Event(), threading.Event()

    def slow(file: int) -> None:
        held = os.dup(file)  # as the kernel does until it is done
        begun.set()
        go_on.wait()
        os.close(held)

    monkeypatch.setattr("gateway.tenants.usage.journal.os.fsync", slow)
    usage_recorder.record(entry(1))
    async with in_background(usage_recorder.run):
        await asyncio.to_thread(begun.wait)
        asked = asyncio.create_task(usage_recorder.drain())
        await asyncio.sleep(0)
        go_on.set()
        await asked

        assert await _left(database) == [1]


async def test_old_requests_are_forgotten(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first, a batch a turn, until none is too old; younger ones and all sums stay."""
    monkeypatch.setattr(retention_module, "BATCH", 4)
    ages = [10.5, 0.5, 3.0, 2.5, 2.0 + 1e-4, 9.0, 8.0, 1.0, 2.0 - 1e-4]
    now = 1000 * DAY_S
    async with database.session() as session:
        await record_usage(session, [entry(n, ended_at=now - age * DAY_S) for n, age in enumerate(ages)])
        before = await sum_usage(session, EVERYTHING, ["hour"])
    retention = Retention(database, keep_days=2, wall_clock=lambda: now)

    turns, left = [await retention.turn()], await _left(database)
    turns += [await retention.turn(), await retention.turn()]

    assert turns == [True, False, False]
    assert left == [1, 3, 4, 7, 8]
    assert await _left(database) == [1, 7, 8]
    async with database.session() as session:
        assert await sum_usage(session, EVERYTHING, ["hour"]) == before


async def test_gateways_forget_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways delete old usage while another writes; together they leave what one would."""
    monkeypatch.setattr(retention_module, "BATCH", 10)
    async with database.session() as session:
        await record_usage(session, [entry(number, ended_at=float(number)) for number in range(60)])
    sides = [Retention(database, keep_days=1, wall_clock=lambda: DAY_S + 50.0) for _ in range(3)]

    async def forget(side: Retention) -> None:
        while await side.turn():
            continue

    async def write() -> None:
        async with database.session() as session:
            await record_usage(session, [entry(number, ended_at=float(number)) for number in range(60, 90)])

    await asyncio.gather(*map(forget, sides), write())
    await forget(sides[0])

    assert await _left(database) == list(range(50, 90))


async def test_forgetting_in_the_background(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes on by itself, and no days mean for ever."""
    monkeypatch.setattr(retention_module, "BUSY_S", 0.0)
    monkeypatch.setattr(retention_module, "IDLE_S", 0.0)
    async with database.session() as session:
        await record_usage(session, [entry(1, ended_at=1.0), entry(2, ended_at=2.5 * DAY_S)])
    for_ever, for_a_day = (Retention(database, keep_days=days, wall_clock=lambda: 3.0 * DAY_S) for days in (0, 1))

    async with in_background(for_ever.run):
        kept = [await _left(database) for _ in range(20)]
    async with in_background(for_a_day.run):
        while await _left(database) != [2]:
            continue

    assert kept == [[1, 2]] * 20


async def test_forgetting_waits_for_the_store(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Told once, and done when it is back."""
    async with database.session() as session:
        await record_usage(session, [entry(1, ended_at=1.0)])
        await session.execute(_rename("usage", "gone"))
    retention = Retention(database, keep_days=1)
    turns = [await retention.turn() for _ in range(3)]
    async with database.session() as session:
        await session.execute(_rename("gone", "usage"))
    await retention.turn()

    assert turns == [False, False, False]
    assert len(caplog.records) == 1
    assert await _left(database) == []


async def _left(database: Database) -> list[int]:
    async with database.session() as session:
        rows = await list_usage(session, EVERYTHING, after="", limit=1000)
    return sorted(int(row.id.removeprefix("chatcmpl-")) for row in rows)


def _rename(old: str, new: str) -> TextClause:
    return text(f"ALTER TABLE {old} RENAME TO {new}")


def _files(directory: Path) -> list[Path]:
    return list(directory.glob("*.journal"))
