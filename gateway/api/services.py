"""What the application serves with."""

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
    """Everything that routes need; made once by the process, or by a test."""

    models: Models
    directory: Directory
    metrics: Metrics
    drain: Drain
    limiter: Limiter = msgspec.field(default_factory=Limiter)
    wrong_keys: WrongKeys = msgspec.field(default_factory=WrongKeys)
    hosts: Hosts = Hosts()
    usage_recorder: UsageRecorder | None = None
    """Writes down what is used; without a store nobody does."""
    tenant_admin: TenantAdmin | None = None
    """What the admin API works on; without a store there is none."""
    max_body_bytes: int = 8 * 1024 * 1024
    keep_alive_s: float = 15.0
    """A stream that is silent for this long says that it lives."""
    write_timeout_s: float = 60.0
    """A client that takes nothing for this long is gone."""
