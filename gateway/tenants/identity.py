"""Who calls: a tenant through one of its keys, as requests see them."""

from __future__ import annotations

import msgspec

from gateway.tenants.policy import NO_LIMITS, Limits, Policy, Scope


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays. `id` never changes and is never used again, `name` is for people."""

    name: str
    id: str = ""
    organisation: str | None = None
    policy: Policy = Policy()
    is_disabled: bool = False

    @property
    def prefix_scope(self) -> str:
        """Who shares what was computed for its prompts: itself, or its group within its organisation."""
        group = self.policy.prefix_group
        if group is None or self.organisation is None:
            return f"tenant {self.id or self.name}"
        return f"group {self.organisation} {group}"

    def may_use(self, model: str) -> bool:
        return not self.policy.models or model in self.policy.models

    def model_of(self, requested: str) -> str:
        """What an alias of this tenant stands for; any other name is itself."""
        return self.policy.aliases.get(requested, requested)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant shows, without the secret. `expires_at` is in Unix seconds."""

    id: str
    tenant_id: str
    scopes: tuple[Scope, ...] = ("inference",)
    limits: Limits = NO_LIMITS
    expires_at: float | None = None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was shown, and its tenant."""

    tenant: Tenant
    key: Key

    def has(self, scope: Scope) -> bool:
        return scope in self.key.scopes
