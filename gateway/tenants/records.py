"""Organisations, tenants and keys as the operator specifies and sees them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.tenants.policy import NO_LIMITS, Limits, Name, Policy, Scope

Origin = Literal["api", "config"]
Unix = Annotated[float, Meta(ge=0, le=10**11)]
Label = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]*$")]


class TenantSpec(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant to create, with its policy and name."""

    name: Name
    organisation: Name | None = None
    disabled: bool = False


class TenantConfig(TenantSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[tenants]]`: a tenant with all fields of the admin API. Keys in clear or, better, as SHA-256 in hex."""

    keys: tuple[Annotated[str, Meta(min_length=8, max_length=512)], ...] = ()
    key_sha256: tuple[Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")], ...] = ()


class TenantRecord(TenantSpec, frozen=True, kw_only=True, omit_defaults=False):
    """An existing tenant. Those of origin `config` are declared in the configuration file and changed there."""

    id: str
    object: Literal["tenant"] = "tenant"
    origin: Origin = "api"
    created_at: float


class KeySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to create. `tenant` is a name or an id; `expires_at` is in Unix seconds, None is never."""

    tenant: Annotated[str, Meta(min_length=1, max_length=128)]
    name: Label = "key"
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=3)] = ("inference",)
    expires_at: Unix | None = None
    limits: Limits = NO_LIMITS


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret; `hint` is the part that may be shown."""

    id: str
    object: Literal["key"] = "key"
    tenant: str
    name: str
    hint: str
    scopes: tuple[Scope, ...]
    limits: Limits
    origin: Origin
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None


class NewKey(KeyRecord, frozen=True, kw_only=True):
    """A new key; this is the only time that the secret is shown."""

    key: str


class OrganisationSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name


class OrganisationRecord(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organisation"] = "organisation"
    name: str
    created_at: float


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One action of an operator. `digest` covers it and every action before it."""

    number: int
    object: Literal["audit"] = "audit"
    at: float
    actor: str
    action: str
    target: str
    request_id: str
    detail: msgspec.Raw
    digest: str
