"""What the door found out about a connection, for those inside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.tenants.identity import Caller

_KEY = "hostelry.visit"


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request or WebSocket. `caller` is None on public paths only; `start` is of `time.perf_counter`."""

    request_id: str
    caller: Caller | None
    start: float = msgspec.field(default_factory=time.perf_counter)

    @property
    def guest(self) -> Caller:
        """The caller, where the door lets nobody in without a key."""
        assert self.caller is not None, "a guarded route was reached without a key"
        return self.caller


def set_request_context(scope: Mapping[str, Any], visit: RequestContext) -> None:  # Any: ASGI's own type
    assert isinstance(scope, dict)
    scope[_KEY] = visit


def request_context_of(scope: Mapping[str, Any]) -> RequestContext:  # Any: ASGI's own type
    visit = scope[_KEY]
    assert isinstance(visit, RequestContext)
    return visit
