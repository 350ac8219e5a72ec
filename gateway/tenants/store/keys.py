"""Keys in the store: created, rotated, revoked, never shown again; and the entries that gateways keep in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec
from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.auth.directory import Changes, KeyEntry, key_digest, key_hint, new_id, new_key
from gateway.tenants.policy import Key, Limits, Policy, Scope, Tenant
from gateway.tenants.records import KeyRecord, KeySpec, NewKey, Origin
from gateway.tenants.store.errors import Conflict, UnknownEntry
from gateway.tenants.store.tables import KeyRow, OrganisationRow, StateRow, TenantRow
from gateway.tenants.store.tenants import find_tenant, page, require_origin
from gateway.tenants.store.transaction import Change

_decode_policy = msgspec.json.Decoder(Policy).decode


async def changes_since(session: AsyncSession, version: int) -> Changes | None:
    """Changes after a version; None if there are none."""
    newest = (await session.execute(select(StateRow.version))).scalar_one()
    if newest == version:
        return None
    tenants = (
        await session.execute(
            select(TenantRow, OrganisationRow.name)
            .join(OrganisationRow, TenantRow.organisation_id == OrganisationRow.id, isouter=True)
            .where(TenantRow.version > version, TenantRow.version <= newest)
        )
    ).all()
    keys = await session.scalars(select(KeyRow).where(KeyRow.version > version, KeyRow.version <= newest))
    return Changes(
        version=newest,
        tenants={row.id: _tenant(row, organisation) for row, organisation in tenants},
        keys=tuple(KeyEntry(bytes.fromhex(row.digest), _key(row)) for row in keys),
    )


def _tenant(row: TenantRow, organisation: str | None) -> Tenant | None:
    if row.deleted_at is not None:
        return None
    policy = _decode_policy(row.policy)
    return Tenant(id=row.id, name=row.name, organisation=organisation, policy=policy, is_disabled=row.is_disabled)


def _key(row: KeyRow) -> Key | None:
    if row.revoked_at is not None:
        return None
    return Key(
        id=row.id,
        tenant_id=row.tenant_id,
        scopes=decode_scopes(row.scopes),
        limits=decode_limits(row.limits),
        expires_at=row.expires_at,
    )


decode_scopes = msgspec.json.Decoder(tuple[Scope, ...]).decode
decode_limits = msgspec.json.Decoder(Limits).decode


async def create_key(change: Change, spec: KeySpec) -> NewKey:
    """Create a key. Raises `UnknownEntry` for an unknown tenant."""
    tenant = await find_tenant(change.session, spec.tenant)
    secret = new_key()
    row = await add_key(change, tenant, spec, digest=key_digest(secret), hint=key_hint(secret))
    return _shown_once(row, tenant, secret)


async def add_key(
    change: Change, tenant: TenantRow, spec: KeySpec, *, digest: str, hint: str, origin: Origin = "api"
) -> KeyRow:
    """Add a key of which only the digest is known. Raises `Conflict` if another tenant has it."""
    row = KeyRow(
        id=new_id("key"),
        tenant_id=tenant.id,
        name=spec.name,
        digest=digest,
        hint=hint,
        scopes=msgspec.json.encode(spec.scopes).decode(),
        limits=msgspec.json.encode(spec.limits).decode(),
        origin=origin,
        created_at=change.now,
        expires_at=spec.expires_at,
        version=change.version,
    )
    change.session.add(row)
    await change.session.flush()
    await change.log("key.create", row.id, {"tenant": tenant.name, "name": spec.name, "scopes": spec.scopes})
    return row


async def rotate_key(change: Change, key_id: str, *, overlap_s: float) -> NewKey:
    """Create a key like the old one, which stays valid for `overlap_s` more. Raises `UnknownEntry` or `Conflict`."""
    old, tenant = await _with_tenant(change.session, key_id)
    require_origin(old, "api", f"key {old.id}")
    if old.revoked_at is not None:
        raise Conflict(f"key {old.id} is revoked; create a new one")
    record = key_record(old, tenant)
    spec = KeySpec(
        tenant=tenant.id, name=record.name, scopes=record.scopes, limits=record.limits, expires_at=record.expires_at
    )
    new = await create_key(change, spec)
    ends = change.now + overlap_s
    old.expires_at = ends if old.expires_at is None else min(old.expires_at, ends)
    old.version = change.version
    await change.log("key.rotate", old.id, {"new": new.id, "overlap_s": overlap_s})
    return new


async def revoke_key(change: Change, key_id: str, *, origin: Origin = "api") -> None:
    """Revoke a key; revoking it twice changes nothing. Raises `UnknownEntry` or `Conflict`."""
    row, _ = await _with_tenant(change.session, key_id)
    require_origin(row, origin, f"key {row.id}")
    if row.revoked_at is None:
        row.revoked_at, row.version = change.now, change.version
        await change.log("key.revoke", row.id, {"name": row.name})


async def find_key(session: AsyncSession, key_id: str) -> KeyRecord:
    """Key by id. Raises `UnknownEntry`."""
    return key_record(*await _with_tenant(session, key_id))


async def list_keys(session: AsyncSession, *, tenant: str | None, after: str, limit: int) -> list[KeyRecord]:
    """Keys in order of creation. Raises `UnknownEntry` for an unknown tenant."""
    statement = select(KeyRow)
    if tenant is not None:
        statement = statement.where(KeyRow.tenant_id == (await find_tenant(session, tenant)).id)
    rows = await page(session, statement, KeyRow, after=after, limit=limit)
    named = {
        row.id: row
        for row in await session.scalars(select(TenantRow).where(TenantRow.id.in_({row.tenant_id for row in rows})))
    }
    return [key_record(row, named[row.tenant_id]) for row in rows]


async def note_used(session: AsyncSession, used: Mapping[str, float]) -> None:
    """Store when keys were last used; the operator's own, which is not in the store, is skipped."""
    table = cast(Table, KeyRow.__table__)
    statement = update(table).where(table.c.id == bindparam("key_id")).values(last_used_at=bindparam("at"))
    await session.execute(statement, [{"key_id": key_id, "at": at} for key_id, at in used.items()])


def key_record(row: KeyRow, tenant: TenantRow) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        tenant=tenant.name,
        name=row.name,
        hint=row.hint,
        scopes=decode_scopes(row.scopes),
        limits=decode_limits(row.limits),
        origin="config" if row.origin == "config" else "api",
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def _shown_once(row: KeyRow, tenant: TenantRow, secret: str) -> NewKey:
    record = key_record(row, tenant)
    return NewKey(key=secret, **{name: getattr(record, name) for name in KeyRecord.__struct_fields__})


async def _with_tenant(session: AsyncSession, key_id: str) -> tuple[KeyRow, TenantRow]:
    row = await session.get(KeyRow, key_id)
    if row is None:
        raise UnknownEntry(f"there is no key {key_id!r}; list them with GET /admin/v1/keys")
    tenant = await session.get(TenantRow, row.tenant_id)
    assert tenant is not None, "a key without a tenant"
    return row, tenant
