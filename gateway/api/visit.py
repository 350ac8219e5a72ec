"""What the door found out about a connection, for those inside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.tenants.keys import Tenant

_KEY = "hostelry.visit"


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request or WebSocket. `tenant` is None on public paths only; `start` is of `time.perf_counter`."""

    request_id: str
    tenant: Tenant | None
    start: float = msgspec.field(default_factory=time.perf_counter)

    @property
    def guest(self) -> Tenant:
        """The tenant, where the door lets nobody in without one."""
        assert self.tenant is not None, "a guarded route was reached without a tenant"
        return self.tenant


def remember(scope: Mapping[str, Any], visit: Visit) -> None:  # Any: ASGI's own type
    assert isinstance(scope, dict)
    scope[_KEY] = visit


def visit_of(scope: Mapping[str, Any]) -> Visit:  # Any: ASGI's own type
    visit = scope[_KEY]
    assert isinstance(visit, Visit)
    return visit
