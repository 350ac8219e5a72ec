"""Writes tenants and keys of the configuration file to the store at every start.

The file takes precedence: it takes over a tenant of the same name, and a key that it no longer names is revoked.
What was created through the API is not changed.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.errors import ConfigError
from gateway.tenants.auth.directory import key_digest, key_hint
from gateway.tenants.records import KeySpec, TenantConfig, TenantSpec
from gateway.tenants.store.database import Database
from gateway.tenants.store.keys import add_key, revoke_key
from gateway.tenants.store.tables import KeyRow, TenantRow
from gateway.tenants.store.tenants import create_tenant, find_tenant, spec_of, tenant_record, update_tenant
from gateway.tenants.store.transaction import Actor, Change, change

ACTOR = Actor("configuration file")
_KEY_NAME = "from the configuration file"
Digests = dict[str, str]
"""SHA-256 of a key in hex → the part of it that may be shown."""


async def bootstrap(database: Database, declared: Iterable[TenantConfig]) -> None:
    """Does nothing if the store has all of this already. Raises `ConfigError` if two tenants have the same key."""
    wanted = {entry.name: (spec_of(entry), _digests(entry)) for entry in declared}
    _check_distinct(wanted)
    async with database.session() as session:
        is_known = await _is_known(session, wanted)
    if is_known:
        return
    async with change(database, ACTOR) as changes:
        for name, (spec, digests) in wanted.items():
            await _declare(changes, name, spec, digests)
        for row in await _stale_keys(changes.session, wanted):
            await revoke_key(changes, row.id, origin="config")


async def _declare(changes: Change, name: str, spec: TenantSpec, digests: Digests) -> None:
    tenant = (await changes.session.scalars(_live(name))).one_or_none()
    if tenant is None:
        await create_tenant(changes, spec, origin="config")
    else:
        tenant.origin = "config"
        if spec_of(await tenant_record(changes.session, tenant)) != spec:
            await update_tenant(changes, tenant.id, spec, origin="config")
    row = await find_tenant(changes.session, name)
    for digest, hint in digests.items():
        await _declare_key(changes, row, digest, hint)


async def _declare_key(changes: Change, tenant: TenantRow, digest: str, hint: str) -> None:
    known = (await changes.session.scalars(select(KeyRow).where(KeyRow.digest == digest))).one_or_none()
    if known is None:
        spec = KeySpec(tenant=tenant.id, name=_KEY_NAME)
        await add_key(changes, tenant, spec, digest=digest, hint=hint, origin="config")
        return
    known.origin, known.tenant_id, known.revoked_at, known.version = "config", tenant.id, None, changes.version


async def _is_known(session: AsyncSession, wanted: dict[str, tuple[TenantSpec, Digests]]) -> bool:
    for name, (spec, digests) in wanted.items():
        row = (await session.scalars(_live(name))).one_or_none()
        if row is None or row.origin != "config" or spec_of(await tenant_record(session, row)) != spec:
            return False
        live = select(KeyRow.digest).where(KeyRow.tenant_id == row.id, KeyRow.revoked_at.is_(None))
        if not set(digests) <= set(await session.scalars(live.where(KeyRow.origin == "config"))):
            return False
    return not await _stale_keys(session, wanted)


async def _stale_keys(session: AsyncSession, wanted: dict[str, tuple[TenantSpec, Digests]]) -> list[KeyRow]:
    digests = {digest for _, found in wanted.values() for digest in found}
    live = select(KeyRow).where(KeyRow.origin == "config", KeyRow.revoked_at.is_(None))
    return [row for row in await session.scalars(live) if row.digest not in digests]


def _digests(entry: TenantConfig) -> Digests:
    return {key_digest(key): key_hint(key) for key in entry.keys} | dict.fromkeys(entry.key_sha256, "…")


def _check_distinct(wanted: dict[str, tuple[TenantSpec, Digests]]) -> None:
    """Raises `ConfigError` for a key that two tenants share, because it would charge the wrong one."""
    holder: dict[str, str] = {}
    for name, (_, digests) in wanted.items():
        for digest in digests:
            if digest in holder:
                raise ConfigError(f"tenants {holder[digest]} and {name} hold the same key; give each its own")
            holder[digest] = name


def _live(name: str) -> Select[TenantRow]:
    return select(TenantRow).where(TenantRow.name == name, TenantRow.deleted_at.is_(None))
