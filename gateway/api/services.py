"""Objects that the routes use."""

from __future__ import annotations

import msgspec

from gateway.api.hosts import Hosts
from gateway.metrics import Metrics
from gateway.process.drain import Drain
from gateway.routing import Models
from gateway.tenants.auth.directory import Directory
from gateway.tenants.auth.wrong_keys import WrongKeys
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.service import TenantAdmin
from gateway.tenants.tasks.recorder import UsageRecorder


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that routes need; created once by the process, or by a test."""

    models: Models
    directory: Directory
    metrics: Metrics
    drain: Drain
    limiter: Limiter = msgspec.field(default_factory=Limiter)
    wrong_keys: WrongKeys = msgspec.field(default_factory=WrongKeys)
    hosts: Hosts = Hosts()
    usage_recorder: UsageRecorder | None = None
    """Records usage; None without a store."""
    tenant_admin: TenantAdmin | None = None
    """State that the admin API changes; None without a store."""
    max_body_bytes: int = 8 * 1024 * 1024
    keep_alive_s: float = 15.0
    """Seconds after which an idle stream sends a keep-alive."""
    write_timeout_s: float = 60.0
    """Seconds after which a client that reads nothing counts as gone."""
