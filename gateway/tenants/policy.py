"""Callers (a tenant through one of its keys), and the policy and limits of tenants and keys."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
Scope = Literal["inference", "admin:read", "admin:write"]
SCOPES: tuple[Scope, ...] = ("inference", "admin:read", "admin:write")

Count = Annotated[int, Meta(ge=1, le=10**15)]
Cost = Annotated[float, Meta(gt=0, le=10**9)]
Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rates, concurrency, budgets for a UTC day and month; None is no limit. Costs are in the operator's currency."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    cost_per_day: Cost | None = None
    cost_per_month: Cost | None = None


NO_LIMITS = Limits()


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Permissions of a tenant. The defaults are off: every model, no limits."""

    models: tuple[str, ...] = ()
    """Names this tenant may use; empty is all. Others are reported as unknown."""
    aliases: dict[Name, str] = {}
    """Alias → model."""
    default_adapter: Name | None = None
    """Adapter for requests that name only a model, whichever it is; None is the model alone."""
    limits: Limits = NO_LIMITS
    """Limits of all keys together."""
    model_limits: dict[str, Limits] = {}
    """Limits of single models, in addition to `limits`."""
    max_context: Annotated[int, Meta(ge=16, le=2**31 - 1)] | None = None
    """Most tokens of a request, prompt and completion, if less than the model allows."""
    max_output_tokens: Tokens | None = None
    """Most output tokens of a request, if less than it asks for or the model allows."""
    weight: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    """Weight of its share of an engine when tenants compete."""
    priority: Annotated[int, Meta(ge=-3, le=3)] = 0
    """Each step is a lead of 4,096 tokens over tenants of lower priority, no more."""
    prefix_group: Name | None = None
    """Tenants of one organisation with the same group share the prefix cache; without it a tenant shares with none."""
    log_prompts: bool = False
    """Write prompts and responses to the server's log, a line of JSON each. Without it they are never logged."""


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """Tenant that is charged. `id` never changes and is never used again, `name` is for people."""

    name: str
    id: str = ""
    organisation: str | None = None
    policy: Policy = Policy()
    is_disabled: bool = False

    @property
    def prefix_scope(self) -> str:
        """Scope of the prefix cache: the tenant itself, or its group within its organisation."""
        group = self.policy.prefix_group
        if group is None or self.organisation is None:
            return f"tenant {self.id or self.name}"
        return f"group {self.organisation} {group}"

    def may_use(self, model: str) -> bool:
        return not self.policy.models or model in self.policy.models

    def model_of(self, requested: str) -> str:
        """Model that an alias of this tenant stands for; any other name is unchanged."""
        return self.policy.aliases.get(requested, requested)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """Key of a tenant, without the secret. `expires_at` is in Unix seconds."""

    id: str
    tenant_id: str
    scopes: tuple[Scope, ...] = ("inference",)
    limits: Limits = NO_LIMITS
    expires_at: float | None = None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Authenticated key and its tenant."""

    tenant: Tenant
    key: Key

    def has(self, scope: Scope) -> bool:
        return scope in self.key.scopes
