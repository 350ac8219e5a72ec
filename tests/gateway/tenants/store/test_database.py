"""Opening, migrating, and what can be wrong with the database."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from gateway.tenants.auth.directory import Directory
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.records import TenantSpec
from gateway.tenants.store import database as module
from gateway.tenants.store.database import LATEST, Database
from gateway.tenants.store.errors import StoreCorrupt, StoreError, StoreUnavailable
from gateway.tenants.store.tables import StateRow
from gateway.tenants.store.tenants import create_tenant, list_tenants
from gateway.tenants.store.transaction import change
from gateway.tenants.tasks.refresh import Refresher
from tests.gateway.tenants.store.conftest import ACTOR
from tests.gateway.tenants.store.test_tenants import bearer, new_key, new_tenant, refreshed


async def test_migrations_make_the_tables(database: Database) -> None:
    """Migrations build exactly the mapped tables, and the newest one is the expected one."""
    async with database.session() as session:
        found = await session.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync.connection()), StateRow.metadata)
        )

    assert [each for each in found if "schema_version" not in str(each)] == []
    scripts = ScriptDirectory(str(Path(module.__file__).parent / "migrations"))
    assert scripts.get_current_head() == LATEST


async def test_a_new_file_is_what_migrations_make(tmp_path: Path) -> None:
    """The statements that lay out a new SQLite store give the same tables, indexes and rows, to the letter."""
    engine = create_engine(f"sqlite:///{tmp_path}/migrated.db")
    with engine.begin() as connection:
        module.upgrade(connection)
    engine.dispose()
    database = Database(f"sqlite:///{tmp_path}/new.db")
    await database.open()
    await database.aclose()

    migrated, new = (_dump(tmp_path / name) for name in ("migrated.db", "new.db"))

    assert sorted(new) == sorted(migrated), "write into new_store.sql:\n" + "\n".join(migrated)


async def test_a_new_file_opened_by_many(tmp_path: Path) -> None:
    """Gateways that start together on a file that is not there yet: one lays it out, the others find it."""
    databases = [Database(f"sqlite:///{tmp_path}/new.db") for _ in range(4)]

    await asyncio.gather(*(database.open() for database in databases))

    for database in databases:
        async with database.session() as session:
            assert (await session.execute(text("SELECT version_num FROM schema_version"))).scalars().all() == [LATEST]
        await database.aclose()


def _dump(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return list(connection.iterdump())


async def test_opening_again_keeps_everything(database: Database, url: str) -> None:
    """Opening again keeps everything, also by two gateways at once."""
    tenant = await new_tenant(database)
    others = [Database(url) for _ in range(3)]

    await asyncio.gather(*(other.open() for other in others))

    async with others[0].session() as session:
        assert [each.id for each in await list_tenants(session, after="", limit=10)] == [tenant.id]
    for other in others:
        await other.aclose()


async def test_a_newer_store_is_left_alone(database: Database, url: str) -> None:
    """An older program must not write what it does not understand."""
    async with database.session() as session:
        await session.execute(text("UPDATE schema_version SET version_num = '9999'"))

    other = Database(url)
    with pytest.raises(StoreError, match="newer Hostelry"):
        await other.open()
    await other.aclose()


@pytest.mark.parametrize("damage", ["no database at all, but long enough", "zeroed", "cut"])
async def test_a_damaged_file_is_told_and_kept(tmp_path: Path, damage: str) -> None:
    """The message names file, check and the way back, and the file is as it was."""
    file = tmp_path / "hostelry.db"
    database = Database(f"sqlite:///{file}")
    await database.open()
    async with change(database, ACTOR) as changes:
        for number in range(200):
            await create_tenant(changes, TenantSpec(name=f"tenant-{number}"))
    await database.aclose()
    data = file.read_bytes()
    spoilt = {"zeroed": data[:8192] + bytes(16384) + data[24576:], "cut": data[: len(data) // 2]}
    file.write_bytes(spoilt.get(damage, damage.encode()))
    before = file.read_bytes()

    again = Database(f"sqlite:///{file}")
    with pytest.raises(StoreCorrupt, match=re.escape(str(file)) + r".*hostelry db restore"):
        await again.open()
    await again.aclose()

    assert file.read_bytes() == before


async def test_a_locked_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go on from what is known, changes are refused in time, and afterwards all is well.

    In time: a change and a refresh together wait no longer than ten plain connections with the same patience.
    """
    monkeypatch.setattr(module, "_LOCK_TIMEOUT_S", 0.2)
    file = tmp_path / "hostelry.db"
    database, directory = Database(f"sqlite:///{file}"), Directory()
    await database.open()
    refresher = Refresher(database, directory, Limiter())
    await new_tenant(database)
    key = await new_key(database)
    await refresher.refresh()
    blocker = sqlite3.connect(file, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")

    start = time.monotonic()
    with closing(sqlite3.connect(file, timeout=0.2)) as plain, pytest.raises(sqlite3.OperationalError, match="locked"):
        plain.execute("BEGIN IMMEDIATE")
    plain_s, start = time.monotonic() - start, time.monotonic()
    with pytest.raises(StoreUnavailable, match="locked"):
        await new_tenant(database, TenantSpec(name="late"))
    await refresher.refresh()
    waited_s = time.monotonic() - start

    assert waited_s < 10 * plain_s
    assert directory.authenticate(bearer(key.key)).tenant.name == "acme"
    blocker.execute("ROLLBACK")
    blocker.close()
    await new_tenant(database, TenantSpec(name="late"))
    await database.aclose()


async def test_a_lost_store_does_not_stop_requests(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """The loss is told once, and so is the return."""
    await new_tenant(database)
    key = await new_key(database)
    directory = await refreshed(database)
    refresher = Refresher(database, directory, Limiter())
    async with database.session() as session:
        await session.execute(text("ALTER TABLE state RENAME TO gone"))
    caplog.set_level("INFO")

    for _ in range(3):
        await refresher._turn(notes=False)

    assert directory.authenticate(bearer(key.key)).tenant.name == "acme"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    async with database.session() as session:
        await session.execute(text("ALTER TABLE gone RENAME TO state"))
    await refresher._turn(notes=True)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_an_unreachable_server(tmp_path: Path) -> None:
    """No server listens there; the message contains no password."""
    database = Database("postgresql://user:secret-word@127.0.0.1:1/hostelry")

    with pytest.raises(StoreUnavailable) as caught:
        await database.open()
    await database.aclose()

    assert "secret-word" not in str(caught.value) + database.shown
