"""Organisations, tenants and keys, over both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import select

from gateway.tenants.auth.directory import Directory, key_digest
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.policy import Limits, Policy
from gateway.tenants.records import KeySpec, NewKey, TenantRecord, TenantSpec
from gateway.tenants.store.database import Database
from gateway.tenants.store.errors import Conflict, StoreError, UnknownEntry
from gateway.tenants.store.keys import create_key, find_key, list_keys, revoke_key, rotate_key
from gateway.tenants.store.tables import KeyRow
from gateway.tenants.store.tenants import (
    create_organisation,
    create_tenant,
    delete_tenant,
    find_tenant,
    list_organisations,
    list_tenants,
    update_tenant,
)
from gateway.tenants.store.transaction import change
from gateway.tenants.tasks.refresh import Refresher
from tests.gateway.tenants.store.conftest import ACTOR

LIMITS = Limits(requests_per_minute=5, tokens_per_minute=1000)
SPEC = TenantSpec(name="acme", organisation="Acme", limits=LIMITS, models=("a", "b"), max_output_tokens=25)


async def new_tenant(database: Database, spec: TenantSpec = SPEC) -> TenantRecord:
    async with change(database, ACTOR) as changes:
        return await create_tenant(changes, spec)


async def new_key(database: Database, tenant: str = "acme", **fields: Any) -> NewKey:  # Any: keywords of `KeySpec`
    async with change(database, ACTOR) as changes:
        return await create_key(changes, KeySpec(tenant=tenant, **fields))


async def refreshed(database: Database, directory: Directory | None = None) -> Directory:
    directory = directory or Directory()
    await Refresher(database, directory, Limiter()).refresh()
    return directory


def bearer(key: str) -> list[bytes]:
    return [f"Bearer {key}".encode()]


async def test_a_tenant_and_its_key(database: Database) -> None:
    """Requests see the tenant and key exactly as created, policy included."""
    tenant = await new_tenant(database)
    key = await new_key(database, scopes=("inference", "admin:read"), limits=Limits(concurrent_requests=2))

    caller = (await refreshed(database)).authenticate(bearer(key.key))

    assert caller.tenant.policy == Policy(limits=LIMITS, models=("a", "b"), max_output_tokens=25)
    assert (caller.tenant.id, caller.tenant.organisation) == (tenant.id, "Acme")
    assert (caller.key.id, caller.key.limits.concurrent_requests) == (key.id, 2)
    assert caller.has("admin:read")
    assert not caller.has("admin:write")


async def test_the_secret_is_nowhere(database: Database) -> None:
    """256 random bits behind the prefix; the store has its SHA-256 and four characters."""
    await new_tenant(database)
    key = await new_key(database)

    async with database.session() as session:
        row = (await session.scalars(select(KeyRow))).one()

    assert key.key.startswith("sk-ho-")
    assert len(key.key) == len("sk-ho-") + 43
    assert row.digest == key_digest(key.key)
    assert key.key[6:-4] not in str(vars(row))
    assert row.hint == f"sk-ho-…{key.key[-4:]}"


async def test_names_are_taken_once(database: Database) -> None:
    """Names are taken once, also by requests at the same moment; a deleted tenant's name is free."""
    found = await asyncio.gather(*(new_tenant(database) for _ in range(8)), return_exceptions=True)
    created = [each for each in found if isinstance(each, TenantRecord)]

    assert len(created) == 1
    assert all(isinstance(each, (TenantRecord, Conflict)) for each in found)
    async with change(database, ACTOR) as changes:
        assert await delete_tenant(changes, "acme") == created[0].id
    assert (await new_tenant(database)).id != created[0].id


async def test_pages(database: Database) -> None:
    """Pages list each entry once, in the order of creation."""
    for number in range(5):
        await new_tenant(database, TenantSpec(name=f"t{number}", organisation=f"o{number % 2}"))
        await new_key(database, f"t{number}", name=f"k{number}")
    async with database.session() as session:
        first = await list_tenants(session, after="", limit=3)
        second = await list_tenants(session, after=first[-1].id, limit=3)
        keys = await list_keys(session, tenant=None, after="", limit=10)
        of_one = await list_keys(session, tenant="t3", after="", limit=10)
        organisations = await list_organisations(session, after="", limit=10)

    assert [tenant.name for tenant in first + second] == ["t0", "t1", "t2", "t3", "t4"]
    assert [key.name for key in keys] == ["k0", "k1", "k2", "k3", "k4"]
    assert [(key.name, key.tenant) for key in of_one] == [("k3", "t3")]
    assert [each.name for each in organisations] == ["o0", "o1"]


async def test_updates_reach_requests(database: Database) -> None:
    """Updates by id or name take effect; another gateway sees them at its next refresh."""
    tenant, other = await new_tenant(database), await new_tenant(database, TenantSpec(name="other"))
    key = await new_key(database)
    directory = await refreshed(database)
    async with change(database, ACTOR) as changes:
        await update_tenant(changes, tenant.id, TenantSpec(name="renamed", disabled=False, max_output_tokens=3))
        with pytest.raises(Conflict, match="called other exists"):
            await update_tenant(changes, "renamed", TenantSpec(name=other.name))

    await refreshed(database, directory)

    caller = directory.authenticate(bearer(key.key))
    assert (caller.tenant.name, caller.tenant.policy.max_output_tokens, caller.tenant.organisation) == (
        "renamed",
        3,
        None,
    )


async def test_rotation_overlaps(database: Database) -> None:
    """The new key is valid at once with the rights of the old one, which ends after the overlap and never later."""
    await new_tenant(database)
    old = await new_key(database, scopes=("admin:write",), name="deploy")
    async with change(database, ACTOR) as changes:
        new = await rotate_key(changes, old.id, overlap_s=60)
        at = changes.now
    async with database.session() as session:
        ended = await find_key(session, old.id)
    directory = await refreshed(database)

    assert (new.name, new.scopes, new.expires_at) == ("deploy", ("admin:write",), None)
    assert ended.expires_at == at + 60
    assert directory.authenticate(bearer(old.key)).key.id == old.id
    assert directory.authenticate(bearer(new.key)).key.id == new.id
    async with change(database, ACTOR) as changes:
        await rotate_key(changes, old.id, overlap_s=3600)
    async with database.session() as session:
        assert (await find_key(session, old.id)).expires_at == at + 60


async def test_revoked_keys_stay_revoked(database: Database) -> None:
    """A revoked key stays revoked in a directory that knew it, in a new one, and for rotation; revoking twice is
    allowed.
    """
    await new_tenant(database)
    key = await new_key(database)
    directory = await refreshed(database)
    for _ in range(2):
        async with change(database, ACTOR) as changes:
            await revoke_key(changes, key.id)

    for each in (await refreshed(database, directory), await refreshed(database)):
        with pytest.raises(Exception, match="not known"):
            each.authenticate(bearer(key.key))
    async with change(database, ACTOR) as changes:
        with pytest.raises(Conflict, match="is revoked"):
            await rotate_key(changes, key.id, overlap_s=0)


async def test_deleting_a_tenant_revokes_its_keys(database: Database) -> None:
    """The keys of a deleted tenant are revoked at once and for good."""
    await new_tenant(database)
    key = await new_key(database)
    directory = await refreshed(database)
    async with change(database, ACTOR) as changes:
        await delete_tenant(changes, "acme")

    await refreshed(database, directory)

    with pytest.raises(Exception, match="not known"):
        directory.authenticate(bearer(key.key))
    async with database.session() as session:
        assert (await find_key(session, key.id)).revoked_at is not None


async def test_unknown_entries(database: Database) -> None:
    """Each names what was asked for and how to list what there is."""
    async with change(database, ACTOR) as changes:
        for asked in (
            find_tenant(changes.session, "nobody"),
            create_key(changes, KeySpec(tenant="nobody")),
            revoke_key(changes, "nobody"),
            delete_tenant(changes, "' OR '1'='1' --"),
        ):
            with pytest.raises(UnknownEntry, match=r"there is no .*GET /admin"):
                await asked
        await create_organisation(changes, "once")
        with pytest.raises(Conflict, match="once exists"):
            await create_organisation(changes, "once")


@pytest.mark.parametrize("name", ["\x00", "a\x00b", "%", "_", "é" * 200, "'"])
async def test_odd_names(database: Database, name: str) -> None:
    """Are looked for like any other, and not there."""
    await new_tenant(database)

    async def look(asked: Callable[..., Awaitable[object]]) -> None:
        async with database.session() as session:
            await asked(session, name)

    for asked in (find_tenant, find_key):
        with pytest.raises(UnknownEntry):
            await look(asked)


async def test_a_failed_change_leaves_nothing(database: Database) -> None:
    """A failed change leaves neither rows, nor a version, nor a line in the log."""
    directory = await refreshed(database)

    async def fail() -> None:
        async with change(database, ACTOR) as changes:
            await create_tenant(changes, SPEC)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    before = directory.version
    await refreshed(database, directory)
    assert directory.version == before
    async with database.session() as session:
        assert await list_tenants(session, after="", limit=10) == []


async def test_uses_are_noted(database: Database) -> None:
    """The time of a key's last use is written outside requests, without a new version."""
    await new_tenant(database)
    key = await new_key(database)
    directory = Directory()
    refresher = Refresher(database, directory, Limiter())
    await refresher.refresh()
    directory.authenticate(bearer(key.key))
    version = directory.version

    await refresher.note_used()
    await refresher.refresh()

    async with database.session() as session:
        assert (await find_key(session, key.id)).last_used_at is not None
    assert directory.version == version


async def test_a_url_of_no_database() -> None:
    """Says which there are."""
    for wrong in ("mysql://host/db", "nonsense", ""):
        with pytest.raises(StoreError, match="postgresql://"):
            Database(wrong)
