"""API keys, and a directory of all keys and tenants in memory, so that no request waits for the store."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from gateway.errors import TenantDisabled, Unauthorized
from gateway.tenants.policy import Caller, Key, Tenant

HOW = 'send the header "Authorization: Bearer <your key>"'


def bearer_digest(authorization: Sequence[bytes]) -> bytes:
    """SHA-256 of the key in these header values. Raises `Unauthorized` unless there is exactly one."""
    return hashlib.sha256(_bearer(authorization)).digest()


def _bearer(authorization: Sequence[bytes]) -> bytes:
    if not authorization:
        raise Unauthorized(f"no API key was given; {HOW}")
    if len(authorization) > 1:
        raise Unauthorized(f"more than one Authorization header was given; {HOW}, once")
    scheme, _, key = authorization[0].partition(b" ")
    if scheme.lower() != b"bearer" or not key.strip():
        raise Unauthorized(f"the Authorization header carries no bearer key; {HOW}")
    return key.strip()


KEY_PREFIX = "sk-ho-"


def new_key() -> str:
    """A fresh 256-bit API key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """Stored form of a key: SHA-256 in hex. A key has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_hint(key: str) -> str:
    """Part of a key that may be shown."""
    return f"{KEY_PREFIX if key.startswith(KEY_PREFIX) else ''}…{key[-4:]}"


def new_id(kind: str) -> str:
    """New id that sorts by time of creation and cannot be guessed: `kind`, microseconds, 48 random bits."""
    return f"{kind}_{time.time_ns() // 1000:014x}{secrets.token_hex(6)}"


class KeyEntry(msgspec.Struct, frozen=True):
    """A key and the SHA-256 of its secret; an entry without `key` revokes the digest."""

    digest: bytes
    key: Key | None


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of the store up to `version`. A tenant that is None was deleted."""

    version: int
    tenants: dict[str, Tenant | None] = {}
    keys: tuple[KeyEntry, ...] = ()


class Directory:
    """Finds keys by whole digest, compared in constant time. Does no I/O and never stores a key in clear."""

    def __init__(self, changes: Changes | None = None, *, wall_clock: Callable[[], float] = time.time) -> None:
        self.version = -1
        self._tenants: dict[str, Tenant] = {}
        self._keys: dict[bytes, KeyEntry] = {}
        self._now = wall_clock
        self._used: dict[str, float] = {}
        if changes is not None:
            self.apply(changes)

    def apply(self, changes: Changes) -> None:
        """Apply changes; each request sees all of them or none."""
        for tenant_id, tenant in changes.tenants.items():
            if tenant is None:
                self._tenants.pop(tenant_id, None)
            else:
                self._tenants[tenant_id] = tenant
        for entry in changes.keys:
            if entry.key is None:
                self._keys.pop(entry.digest, None)
            else:
                self._keys[entry.digest] = entry
        self.version = changes.version

    def authenticate(self, authorization: Sequence[bytes]) -> Caller:
        """Caller of the key in these `Authorization` header values.

        Raises `Unauthorized` without exactly one key that is known and has not expired, `TenantDisabled` if its
        tenant is disabled.
        """
        digest = bearer_digest(authorization)
        entry = self._keys.get(digest)
        if entry is None or entry.key is None or not hmac.compare_digest(entry.digest, digest):
            raise Unauthorized(f"the API key is not known; check it for missing characters and {HOW}")
        key, now = entry.key, self._now()
        if key.expires_at is not None and now >= key.expires_at:
            raise Unauthorized("the API key has expired; ask the operator of this server for a new one")
        tenant = self._tenants.get(key.tenant_id)
        if tenant is None:
            raise Unauthorized(f"the API key is not known; check it for missing characters and {HOW}")
        if tenant.is_disabled:
            raise TenantDisabled(f"tenant {tenant.name} is disabled; ask the operator of this server to enable it")
        self._used[key.id] = now
        return Caller(tenant=tenant, key=key)

    def take_used(self) -> dict[str, float]:
        """Key id → Unix seconds of its last use, for keys used since the last call."""
        used, self._used = self._used, {}
        return used

    def tenants(self) -> Iterable[Tenant]:
        return self._tenants.values()

    def tenant(self, tenant_id: str) -> Tenant | None:
        return self._tenants.get(tenant_id)

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._keys)
