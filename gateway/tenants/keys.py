"""Who calls: keys as SHA-256, looked up whole and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence

import msgspec

from gateway.config import ConfigError, TenantConfig
from gateway.errors import PermissionDenied, Unauthorized

_HOW = 'send the header "Authorization: Bearer <your key>"'


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays. `models` empty means every model."""

    name: str
    models: tuple[str, ...] = ()
    is_disabled: bool = False

    def may_use(self, model: str) -> bool:
        return not self.models or model in self.models


class Tenants:
    """The keys of all tenants. Does no I/O and never holds a key in clear."""

    def __init__(self, declared: Iterable[TenantConfig]) -> None:
        """Raises `ConfigError` if two entries hold the same key."""
        self._tenants: dict[bytes, tuple[bytes, Tenant]] = {}
        for entry in declared:
            tenant = Tenant(name=entry.name, models=entry.models, is_disabled=entry.disabled)
            for digest in _digests(entry):
                self._declare(digest, tenant)

    def _declare(self, digest: bytes, tenant: Tenant) -> None:
        if digest in self._tenants:
            other = self._tenants[digest][1].name
            raise ConfigError(f"tenants {other} and {tenant.name} hold the same key; give each its own")
        self._tenants[digest] = (digest, tenant)

    def authenticate(self, authorization: Sequence[bytes]) -> Tenant:
        """The tenant that holds the key in these `Authorization` header values.

        Raises `Unauthorized` without exactly one known bearer key, `PermissionDenied` if its tenant is disabled.
        """
        digest = hashlib.sha256(_bearer(authorization)).digest()
        stored, tenant = self._tenants.get(digest, (b"", None))
        if tenant is None or not hmac.compare_digest(stored, digest):
            raise Unauthorized(f"the API key is not known; check it for missing characters and {_HOW}")
        if tenant.is_disabled:
            raise PermissionDenied(f"tenant {tenant.name} is disabled; ask the operator of this server to enable it")
        return tenant


def _digests(entry: TenantConfig) -> list[bytes]:
    clear = [hashlib.sha256(key.encode()).digest() for key in entry.keys]
    return clear + [bytes.fromhex(text) for text in entry.key_sha256]


def _bearer(authorization: Sequence[bytes]) -> bytes:
    """The key inside a single `Bearer` header."""
    if not authorization:
        raise Unauthorized(f"no API key was given; {_HOW}")
    if len(authorization) > 1:
        raise Unauthorized(f"more than one Authorization header was given; {_HOW}, once")
    scheme, _, key = authorization[0].partition(b" ")
    if scheme.lower() != b"bearer" or not key.strip():
        raise Unauthorized(f"the Authorization header carries no bearer key; {_HOW}")
    return key.strip()
