"""Where the operator's changes happen: the store, and this gateway's own view of it, which follows at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.directory import Changes, Directory, KeyEntry
from gateway.tenants.identity import Key, Tenant
from gateway.tenants.refresh import Refresher
from gateway.tenants.secrets import key_digest
from gateway.tenants.store.database import Database
from gateway.tenants.store.transaction import Actor, Change, change

OPERATOR_ID = "operator"


class Office:
    """`session` to read, `change` to write. What was changed holds for the next request of this gateway."""

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
    """A directory that knows nobody but the operator, who is in no store; `admin_key` may do all but infer."""
    if admin_key is None:
        return Directory()
    digest = bytes.fromhex(key_digest(admin_key))
    key = Key(id=OPERATOR_ID, tenant_id=OPERATOR_ID, scopes=("admin:read", "admin:write"))
    tenant = Tenant(id=OPERATOR_ID, name=OPERATOR_ID)
    return Directory(Changes(version=-1, tenants={tenant.id: tenant}, keys=(KeyEntry(digest, key),)))
