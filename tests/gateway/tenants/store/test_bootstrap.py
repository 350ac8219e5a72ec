"""Tenants and keys from the configuration file."""

from __future__ import annotations

import hashlib

import pytest

from gateway.errors import ConfigError
from gateway.tenants.policy import Limits
from gateway.tenants.records import TenantConfig, TenantSpec
from gateway.tenants.store.audit import list_audit
from gateway.tenants.store.bootstrap import bootstrap
from gateway.tenants.store.database import Database
from gateway.tenants.store.errors import Conflict
from gateway.tenants.store.keys import list_keys, revoke_key
from gateway.tenants.store.tenants import delete_tenant, list_tenants, update_tenant
from gateway.tenants.store.transaction import change
from tests.gateway.tenants.store.conftest import ACTOR
from tests.gateway.tenants.store.test_tenants import bearer, new_key, new_tenant, refreshed

KEY, SECOND = "sk-first-0123456789", "sk-second-0123456789"
DECLARED = TenantConfig(name="acme", keys=(KEY,), limits=Limits(tokens_per_minute=100), models=("demo",))


async def test_what_is_declared_holds(database: Database) -> None:
    """Keys in clear and as digests lead to the tenant with its policy; none is kept in clear."""
    digest = hashlib.sha256(SECOND.encode()).hexdigest()
    await bootstrap(database, [DECLARED, TenantConfig(name="hashed", key_sha256=(digest,), disabled=False)])
    directory = await refreshed(database)

    caller = directory.authenticate(bearer(KEY))

    assert (caller.tenant.name, caller.tenant.policy.limits.tokens_per_minute) == ("acme", 100)
    assert directory.authenticate(bearer(SECOND)).tenant.name == "hashed"
    async with database.session() as session:
        keys = await list_keys(session, tenant=None, after="", limit=10)
    assert {(key.origin, key.hint) for key in keys} == {("config", "…6789"), ("config", "…")}


async def test_again_changes_nothing(database: Database) -> None:
    """Repeating it changes neither the version nor the log."""
    await bootstrap(database, [DECLARED])
    directory = await refreshed(database)
    version = directory.version

    await bootstrap(database, [DECLARED])

    await refreshed(database, directory)
    assert directory.version == version


async def test_the_file_wins_over_what_it_declares(database: Database) -> None:
    """A changed policy, a replaced key, and a tenant of that name from the API."""
    await new_tenant(database, TenantSpec(name="acme", max_output_tokens=7))
    made = await new_key(database)
    await bootstrap(database, [DECLARED])
    directory = await refreshed(database)

    assert directory.authenticate(bearer(KEY)).tenant.policy.max_output_tokens is None
    assert directory.authenticate(bearer(made.key)).tenant.name == "acme"
    await bootstrap(database, [TenantConfig(name="acme", keys=(SECOND,), max_output_tokens=2)])
    await refreshed(database, directory)
    assert directory.authenticate(bearer(SECOND)).tenant.policy.max_output_tokens == 2
    with pytest.raises(Exception, match="not known"):
        directory.authenticate(bearer(KEY))
    await bootstrap(database, [DECLARED])
    await refreshed(database, directory)
    assert directory.authenticate(bearer(KEY)).tenant.name == "acme"


async def test_keys_of_a_tenant_that_left_the_file_end(database: Database) -> None:
    """The tenant stays, for its usage."""
    await bootstrap(database, [DECLARED])
    directory = await refreshed(database)

    await bootstrap(database, [])

    await refreshed(database, directory)
    with pytest.raises(Exception, match="not known"):
        directory.authenticate(bearer(KEY))
    async with database.session() as session:
        assert [tenant.name for tenant in await list_tenants(session, after="", limit=10)] == ["acme"]


async def test_a_key_may_move(database: Database) -> None:
    """A key may move from one declared tenant to another."""
    await bootstrap(database, [DECLARED, TenantConfig(name="b")])
    await bootstrap(database, [TenantConfig(name="acme"), TenantConfig(name="b", keys=(KEY,))])

    assert (await refreshed(database)).authenticate(bearer(KEY)).tenant.name == "b"


async def test_the_api_leaves_the_file_alone(database: Database) -> None:
    """Changes of declared entries through the API are refused, as the next start would undo them; the log names the
    declaration.
    """
    await bootstrap(database, [DECLARED])
    async with database.session() as session:
        (key,) = await list_keys(session, tenant="acme", after="", limit=10)
        log = await list_audit(session, after=0, limit=10)

    async with change(database, ACTOR) as changes:
        for asked in (
            update_tenant(changes, "acme", TenantSpec(name="acme", max_output_tokens=9)),
            delete_tenant(changes, "acme"),
            revoke_key(changes, key.id),
        ):
            with pytest.raises(Conflict, match="declared in the configuration file"):
                await asked
    assert {entry.actor for entry in log} == {"configuration file"}


async def test_one_key_one_tenant(database: Database) -> None:
    """A key that two tenants share would charge the wrong one; the message does not show it."""
    with pytest.raises(ConfigError, match="tenants a and b hold the same key") as caught:
        await bootstrap(database, [TenantConfig(name="a", keys=(KEY,)), TenantConfig(name="b", keys=(KEY,))])

    assert KEY not in str(caught.value)
