"""What gateways keep in memory: tenants and keys that changed since a version."""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.auth.directory import Changes, KeyEntry
from gateway.tenants.identity import Key, Tenant
from gateway.tenants.policy import Policy
from gateway.tenants.store.keys import decode_limits, decode_scopes
from gateway.tenants.store.tables import KeyRow, OrganisationRow, StateRow, TenantRow

_decode_policy = msgspec.json.Decoder(Policy).decode


async def changes_since(session: AsyncSession, version: int) -> Changes | None:
    """None if there are none."""
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
