"""A directory without a store, from what a configuration file declares."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.tenants.auth.directory import Changes, Directory, KeyEntry, key_digest
from gateway.tenants.policy import Key, Tenant
from gateway.tenants.records import TenantConfig
from gateway.tenants.store.tenants import policy_of


def directory_of(declared: Iterable[TenantConfig]) -> Directory:
    """Ids are names, and keys count from 0 within a tenant."""
    tenants, keys = {}, []
    for entry in declared:
        tenants[entry.name] = Tenant(
            id=entry.name, name=entry.name, policy=policy_of(entry), is_disabled=entry.disabled
        )
        for number, digest in enumerate([*map(key_digest, entry.keys), *entry.key_sha256]):
            key = Key(id=f"{entry.name}-{number}", tenant_id=entry.name, limits=entry.limits)
            keys.append(KeyEntry(bytes.fromhex(digest), key))
    return Directory(Changes(version=0, tenants=dict(tenants), keys=tuple(keys)))
