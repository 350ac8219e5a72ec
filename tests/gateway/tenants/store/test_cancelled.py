"""Work on the store may be cancelled at any moment without harm to the store's connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gateway.tenants import service as service_module
from gateway.tenants.records import TenantSpec
from gateway.tenants.service import open_tenancy
from gateway.tenants.store import database as database_module
from gateway.tenants.store import session as session_module
from gateway.tenants.store.database import Database
from gateway.tenants.store.tenants import create_tenant, list_tenants
from gateway.tenants.store.transaction import change
from gateway.tenants.tasks import background as background_module
from tests.gateway.tenants.store.conftest import ACTOR

Work = Callable[[], Coroutine[Any, Any, None]]
WAITS = (
    (database_module, "_LOCK_TIMEOUT_S"),
    (service_module, "_CLOSE_S"),
    (background_module, "LAST_TURN_S"),
    (session_module, "PATIENCE_S"),
)


class CancelledAtWait:
    """Awaits the work, and cancels the task that does so when the work waits for the n-th time."""

    def __init__(self, work: Coroutine[Any, Any, None], nth: int) -> None:
        self._work = work
        self._nth = nth

    def __await__(self) -> Generator[Any, None, None]:  # Any: what a coroutine says to its loop
        inner, thrown = self._work.__await__(), None
        for wait in count(1):
            try:
                waited_for = next(inner) if thrown is None else inner.throw(thrown)
            except StopIteration:
                return
            if wait == self._nth:
                _this_task().cancel()
            thrown = None
            try:
                yield waited_for
            except BaseException as error:  # of the loop, for the work
                thrown = error


def _this_task() -> asyncio.Task[Any]:  # Any: of the work
    task = asyncio.current_task()
    assert task is not None
    return task


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Background work is always in the midst of a turn."""
    for place in ("refresh.INTERVAL_S", "peers.SYNC_S", "recorder.SYNC_S"):
        monkeypatch.setattr(f"gateway.tenants.tasks.{place}", 0.0)


async def cancelled_everywhere(work: Work) -> int:
    """Run the work again and again, cancelled at its first, second … wait. Returns how often it waits."""
    for nth in count(1):
        task = asyncio.create_task(_awaited(work(), nth))
        await asyncio.wait([task])
        if not task.cancelled():
            await task
            return nth - 1
    raise AssertionError("counting ends never")


async def _awaited(work: Coroutine[Any, Any, None], nth: int) -> None:
    await CancelledAtWait(work, nth)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_cancelled_session(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """A session cancelled at any await logs nothing, returns its connection, and stores all of its changes or none."""
    names = count()

    async def two_in_one() -> None:
        number = next(names)
        async with change(database, ACTOR) as changes:
            for half in "ab":
                await create_tenant(changes, TenantSpec(name=f"{number}{half}"))

    waits = await cancelled_everywhere(two_in_one)

    async with database.session() as session:
        found = {tenant.name for tenant in await list_tenants(session, after="", limit=1000)}
    assert waits > 5
    assert complaints(caplog) == []
    assert _in_use(database) == 0
    assert all((f"{number}a" in found) == (f"{number}b" in found) for number in range(waits + 1))
    assert f"{waits}b" in found


@pytest.mark.usefixtures("database")
async def test_a_cancelled_start(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does it matter when a gateway that opens the store is told to end."""

    async def opened() -> None:
        other = Database(url)
        try:
            await other.open()
        finally:
            await other.aclose()

    waits = await cancelled_everywhere(opened)

    assert waits > 0
    assert complaints(caplog) == []


@pytest.mark.usefixtures("database")
async def test_an_early_end(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that fails ends while keys, shares and usage are read: without a word, and all is closed.

    At once: everything that could be waited for is given ten minutes, and one is longer than the test has.
    """
    for module, name in WAITS:
        monkeypatch.setattr(module, name, 600.0)
    for turns in range(0, 120, 6):
        async with asyncio.timeout(60), open_tenancy([], url=url, data_dir=tmp_path, admin_key=None) as tenancy:
            for _ in range(turns):
                await asyncio.sleep(0)

        assert tenancy.directory.version >= 0
    assert complaints(caplog) == []


async def test_work_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is waited for only so long."""
    monkeypatch.setattr(session_module, "PATIENCE_S", 0.01)
    begun, never = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await never.wait()

    task = asyncio.create_task(session_module.shielded(work()))
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


def _in_use(database: Database) -> int:
    """Connections that are not in the pool."""
    pool: Any = database._engine.sync_engine.pool  # Any: one of several kinds of pools
    return int(pool.checkedout())
