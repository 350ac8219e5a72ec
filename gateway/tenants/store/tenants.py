"""Organisations and tenants in the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from sqlalchemy import Select, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.auth.directory import new_id
from gateway.tenants.policy import Policy
from gateway.tenants.records import OrganisationRecord, Origin, TenantRecord, TenantSpec
from gateway.tenants.store.errors import Conflict, UnknownEntry
from gateway.tenants.store.tables import KeyRow, OrganisationRow, TenantRow
from gateway.tenants.store.transaction import Change

R = TypeVar("R", TenantRow, KeyRow, OrganisationRow)
_policy_fields = Policy.__struct_fields__
_decode_policy = msgspec.json.Decoder(Policy).decode


async def create_organisation(change: Change, name: str) -> OrganisationRecord:
    """Create an organisation. Raises `Conflict` if the name is taken."""
    if await _organisation_named(change.session, name) is not None:
        raise Conflict(f"an organisation called {name} exists already")
    row = OrganisationRow(id=new_id("org"), name=name, created_at=change.now)
    change.session.add(row)
    await change.session.flush()
    await change.log("organisation.create", row.id, {"name": name})
    return OrganisationRecord(id=row.id, name=row.name, created_at=row.created_at)


async def list_organisations(session: AsyncSession, *, after: str, limit: int) -> list[OrganisationRecord]:
    rows = await page(session, select(OrganisationRow), OrganisationRow, after=after, limit=limit)
    return [OrganisationRecord(id=row.id, name=row.name, created_at=row.created_at) for row in rows]


async def create_tenant(change: Change, spec: TenantSpec, *, origin: Origin = "api") -> TenantRecord:
    """Create a tenant, and its organisation if that is new. Raises `Conflict` if the name is taken."""
    if await _live_tenant(change.session, spec.name) is not None:
        raise Conflict(f"a tenant called {spec.name} exists already; change it, or choose another name")
    row = TenantRow(id=new_id("ten"), origin=origin, created_at=change.now)
    await _fill(change, row, spec)
    change.session.add(row)
    await change.session.flush()
    await change.log("tenant.create", row.id, spec)
    return await tenant_record(change.session, row)


async def update_tenant(change: Change, reference: str, spec: TenantSpec, *, origin: Origin = "api") -> TenantRecord:
    """Set all fields of a tenant to those of `spec`. Raises `UnknownEntry` or `Conflict`."""
    row = await find_tenant(change.session, reference)
    require_origin(row, origin, f"tenant {row.name}")
    if spec.name != row.name and await _live_tenant(change.session, spec.name) is not None:
        raise Conflict(f"a tenant called {spec.name} exists already")
    await _fill(change, row, spec)
    await change.session.flush()
    await change.log("tenant.update", row.id, spec)
    return await tenant_record(change.session, row)


async def delete_tenant(change: Change, reference: str) -> str:
    """Revoke its keys and remove it from every list; its usage remains. Returns its id.

    Raises `UnknownEntry` or `Conflict`.
    """
    row = await find_tenant(change.session, reference)
    require_origin(row, "api", f"tenant {row.name}")
    row.deleted_at, row.version = change.now, change.version
    keys = update(KeyRow).where(KeyRow.tenant_id == row.id, KeyRow.revoked_at.is_(None))
    await change.session.execute(keys.values(revoked_at=change.now, version=change.version))
    await change.log("tenant.delete", row.id, {"name": row.name})
    return row.id


async def find_tenant(session: AsyncSession, reference: str) -> TenantRow:
    """Tenant by id or name. Raises `UnknownEntry`."""
    row = await _live_tenant(session, reference)
    if row is None:
        raise UnknownEntry(f"there is no tenant {reference!r}; list them with GET /admin/v1/tenants")
    return row


async def list_tenants(session: AsyncSession, *, after: str, limit: int) -> list[TenantRecord]:
    statement = select(TenantRow).where(TenantRow.deleted_at.is_(None))
    rows = await page(session, statement, TenantRow, after=after, limit=limit)
    return [await tenant_record(session, row) for row in rows]


async def tenant_record(session: AsyncSession, row: TenantRow) -> TenantRecord:
    organisation = await session.get(OrganisationRow, row.organisation_id) if row.organisation_id else None
    policy = _decode_policy(row.policy)
    return TenantRecord(
        id=row.id,
        name=row.name,
        organisation=organisation.name if organisation else None,
        disabled=row.is_disabled,
        origin="config" if row.origin == "config" else "api",
        created_at=row.created_at,
        **{name: getattr(policy, name) for name in _policy_fields},
    )


async def page(session: AsyncSession, statement: Select[R], kind: type[R], *, after: str, limit: int) -> list[R]:
    """Rows in the order of creation, after the id `after`."""
    found: Sequence[R] = (await session.scalars(statement.where(kind.id > after).order_by(kind.id).limit(limit))).all()
    return list(found)


def require_origin(row: TenantRow | KeyRow, origin: Origin, what: str) -> None:
    """Raises `Conflict` for an entry of another origin: the next start would undo the change."""
    if row.origin == "config" and origin == "api":
        raise Conflict(f"{what} is declared in the configuration file; change it there and restart")


def policy_of(spec: Policy) -> Policy:
    """Policy alone, without the other fields of a tenant."""
    return Policy(**{name: getattr(spec, name) for name in _policy_fields})


def spec_of(tenant: TenantSpec) -> TenantSpec:
    """Specification of a tenant, without the fields that the store or the file add."""
    return TenantSpec(**{name: getattr(tenant, name) for name in TenantSpec.__struct_fields__})


async def _fill(change: Change, row: TenantRow, spec: TenantSpec) -> None:
    row.name = spec.name
    row.organisation_id = await _organisation_id(change, spec.organisation)
    row.policy = msgspec.json.encode(policy_of(spec)).decode()
    row.is_disabled = spec.disabled
    row.deleted_at = None
    row.version = change.version


async def _organisation_id(change: Change, name: str | None) -> str | None:
    if name is None:
        return None
    found = await _organisation_named(change.session, name)
    return found.id if found else (await create_organisation(change, name)).id


async def _organisation_named(session: AsyncSession, name: str) -> OrganisationRow | None:
    return (await session.scalars(select(OrganisationRow).where(OrganisationRow.name == name))).one_or_none()


async def _live_tenant(session: AsyncSession, reference: str) -> TenantRow | None:
    named = or_(TenantRow.id == reference, TenantRow.name == reference)
    return (await session.scalars(select(TenantRow).where(named, TenantRow.deleted_at.is_(None)))).first()
