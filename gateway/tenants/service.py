"""Tenancy as one service: the store, this gateway's copy of it, and the tasks that keep both up to date."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.process.data_dir import STORE_FILE
from gateway.tenants.auth.directory import Changes, Directory, KeyEntry, key_digest
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.policy import Key, Tenant
from gateway.tenants.records import TenantConfig
from gateway.tenants.store.backup import back_up_daily
from gateway.tenants.store.bootstrap import bootstrap
from gateway.tenants.store.database import Database
from gateway.tenants.store.errors import StoreError
from gateway.tenants.store.transaction import Actor, Change, change
from gateway.tenants.tasks.background import in_background
from gateway.tenants.tasks.peers import PeerSync
from gateway.tenants.tasks.recorder import Retention, UsageRecorder
from gateway.tenants.tasks.refresh import Refresher
from gateway.tenants.usage.journal import Journal

OPERATOR_ID = "operator"


class TenantAdmin:
    """Reads with `session`, writes with `change`. Changes apply to the next request of this gateway."""

    def __init__(self, database: Database, refresher: Refresher) -> None:
        self._database = database
        self._refresher = refresher

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        return self._database.session()

    @asynccontextmanager
    async def change(self, actor: Actor) -> AsyncGenerator[Change]:
        async with change(self._database, actor) as changes:
            yield changes
        await self._refresher.refresh()


def directory_with_operator(admin_key: str | None) -> Directory:
    """Directory with no caller but the operator, who is in no store; `admin_key` may do all but inference."""
    if admin_key is None:
        return Directory()
    digest = bytes.fromhex(key_digest(admin_key))
    key = Key(id=OPERATOR_ID, tenant_id=OPERATOR_ID, scopes=("admin:read", "admin:write"))
    tenant = Tenant(id=OPERATOR_ID, name=OPERATOR_ID)
    return Directory(Changes(version=-1, tenants={tenant.id: tenant}, keys=(KeyEntry(digest, key),)))


_CLOSE_S = 3.0


class Tenancy(msgspec.Struct, frozen=True):
    """Directory and limits of callers, the admin service, and the usage recorder."""

    directory: Directory
    tenant_admin: TenantAdmin
    usage_recorder: UsageRecorder
    limiter: Limiter


@asynccontextmanager
async def open_tenancy(
    declared: Iterable[TenantConfig],
    *,
    url: str | None,
    data_dir: Path,
    admin_key: str | None,
    keep_days: int = 0,
) -> AsyncGenerator[Tenancy]:
    """Open the store at `url`, or in the data directory, with what the configuration declares.

    Single requests are kept `keep_days`, 0 is forever.

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
        usage_recorder = UsageRecorder(_journal(data_dir), database, limiter)
        await usage_recorder.open()
        await refresher.refresh()
        peer_sync = PeerSync(database, limiter)
        await peer_sync.sync()
        retention = Retention(database, keep_days=keep_days)
        try:
            async with in_background(peer_sync.run, refresher.run, usage_recorder.run, retention.run):
                yield Tenancy(directory, TenantAdmin(database, refresher), usage_recorder, limiter)
        finally:
            await _close_tasks(usage_recorder, peer_sync, refresher)
    finally:
        await database.aclose()


async def _close_tasks(usage_recorder: UsageRecorder, peer_sync: PeerSync, refresher: Refresher) -> None:
    """Write what is new to the store, without waiting for one that does not respond: nothing is lost then."""
    with contextlib.suppress(StoreError, TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await usage_recorder.aclose()
            await peer_sync.leave()
            await refresher.note_used()


def _journal(data_dir: Path) -> Journal:
    try:
        return Journal(data_dir / "journal")
    except OSError as error:
        raise StoreError(f"usage cannot be written to {data_dir / 'journal'}: {error.strerror}") from error
