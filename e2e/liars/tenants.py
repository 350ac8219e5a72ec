"""Keys, checked as an honest gateway would: a liar should be caught for its lie only."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import msgspec
from aiohttp import web


class Tenant(msgspec.Struct, frozen=True):
    name: str
    models: tuple[str, ...] = ()
    disabled: bool = False


class Tenants:
    """Tenants of a `hostelry.toml`."""

    def __init__(self, config: Path | None) -> None:
        self._by_digest: dict[str, Tenant] = {}
        tables = tomllib.loads(config.read_text(encoding="utf-8"))["tenants"] if config else []
        for table in tables:
            tenant = Tenant(table["name"], tuple(table.get("models", ())), table.get("disabled", False))
            digests = [*table.get("key_sha256", ()), *(_digest(key) for key in table.get("keys", ()))]
            self._by_digest |= dict.fromkeys(digests, tenant)

    def of(self, request: web.Request) -> Tenant | None:
        """Tenant of the request's key; None if the key is not valid."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        tenant = self._by_digest.get(_digest(key)) if scheme == "Bearer" else None
        return None if tenant is None or tenant.disabled else tenant


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
