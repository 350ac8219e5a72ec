"""The log of what operators did."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import delete, update

from gateway.tenants.records import TenantSpec
from gateway.tenants.store.audit import first_broken, list_audit
from gateway.tenants.store.database import Database
from gateway.tenants.store.keys import revoke_key
from gateway.tenants.store.tables import AuditRow
from gateway.tenants.store.transaction import change
from tests.gateway.tenants.store.conftest import ACTOR
from tests.gateway.tenants.store.test_tenants import new_key, new_tenant


async def test_who_did_what(database: Database) -> None:
    """Each action with actor, target and request id, oldest first; no secret among it."""
    tenant = await new_tenant(database, TenantSpec(name="acme"))
    key = await new_key(database)
    async with change(database, ACTOR) as changes:
        await revoke_key(changes, key.id)

    async with database.session() as session:
        log = await list_audit(session, after=0, limit=10)
        later = await list_audit(session, after=2, limit=10)

    assert [(entry.action, entry.target) for entry in log] == [
        ("tenant.create", tenant.id),
        ("key.create", key.id),
        ("key.revoke", key.id),
    ]
    assert {(entry.actor, entry.request_id) for entry in log} == {("tester", "req_test")}
    assert later == log[2:]
    assert msgspec.json.decode(log[0].detail) == {"name": "acme"}
    assert key.key.encode() not in msgspec.json.encode(log)


@pytest.mark.parametrize("damage", ["altered", "removed", "renumbered"])
async def test_tampering_shows(database: Database, damage: str) -> None:
    """Verification reports tampering at the first line that does not follow from the previous ones."""
    for number in range(4):
        await new_tenant(database, TenantSpec(name=f"t{number}"))
    async with database.session() as session:
        assert await first_broken(session) is None
        second = AuditRow.number == 2
        match damage:
            case "altered":
                await session.execute(update(AuditRow).where(second).values(actor="somebody else"))
            case "removed":
                await session.execute(delete(AuditRow).where(second))
            case _:
                await session.execute(update(AuditRow).where(AuditRow.number == 4).values(number=9))

    async with database.session() as session:
        assert await first_broken(session) == (4 if damage == "renumbered" else 2)
