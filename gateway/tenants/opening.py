"""Opens the store at start-up, and closes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from gateway.config import TenantConfig, UsageConfig
from gateway.datadir import STORE_FILE
from gateway.tenants.directory import Directory
from gateway.tenants.limits import Limiter
from gateway.tenants.neighbours import Neighbours
from gateway.tenants.office import Office, directory_with_operator
from gateway.tenants.refresh import Refresher
from gateway.tenants.store.backup import back_up_daily
from gateway.tenants.store.bootstrap import bootstrap
from gateway.tenants.store.database import Database
from gateway.tenants.store.errors import StoreError
from gateway.tenants.turns import beside
from gateway.tenants.usage.bookkeeper import Bookkeeper
from gateway.tenants.usage.journal import Journal
from gateway.tenants.usage.retention import Retention

_GOODBYE_S = 3.0


class Tenancy(msgspec.Struct, frozen=True):
    """Who may call and how much, where the operator changes it, and where usage is written down."""

    directory: Directory
    office: Office
    bookkeeper: Bookkeeper
    limiter: Limiter


@asynccontextmanager
async def open_tenancy(
    declared: Iterable[TenantConfig],
    *,
    url: str | None,
    data_dir: Path,
    admin_key: str | None,
    usage: UsageConfig = UsageConfig(),
) -> AsyncGenerator[Tenancy]:
    """The store at `url`, or in the data directory, with what the configuration declares.

    Raises `StoreCorrupt`, another `StoreError`, or `ConfigError`.
    """
    database = Database(url or f"sqlite:///{(data_dir / STORE_FILE).absolute()}")
    directory = directory_with_operator(admin_key)
    limiter = Limiter()
    refresher = Refresher(database, directory, limiter)
    try:
        await database.open()
        if database.file is not None:
            await asyncio.to_thread(back_up_daily, database.file)
        await bootstrap(database, declared)
        bookkeeper = Bookkeeper(_journal(data_dir), database, limiter)
        await bookkeeper.open()
        await refresher.refresh()
        neighbours = Neighbours(database, limiter)
        await neighbours.meet()
        retention = Retention(database, keep_days=usage.keep_days)
        try:
            async with beside(neighbours.run, refresher.run, bookkeeper.run, retention.run):
                yield Tenancy(directory, Office(database, refresher), bookkeeper, limiter)
        finally:
            await _say_goodbye(bookkeeper, neighbours, refresher)
    finally:
        await database.aclose()


async def _say_goodbye(bookkeeper: Bookkeeper, neighbours: Neighbours, refresher: Refresher) -> None:
    """What is new goes to the store. One that does not answer is not waited for: nothing in it depends on that."""
    with contextlib.suppress(StoreError, TimeoutError):
        async with asyncio.timeout(_GOODBYE_S):
            await bookkeeper.aclose()
            await neighbours.leave()
            await refresher.note_used()


def _journal(data_dir: Path) -> Journal:
    try:
        return Journal(data_dir / "journal")
    except OSError as error:
        raise StoreError(f"usage cannot be written to {data_dir / 'journal'}: {error.strerror}") from error
