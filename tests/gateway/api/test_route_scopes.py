"""Scopes of keys that each route requires."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.api.auth import LOCAL_PATHS, PUBLIC_PATHS, RequestContext, require_access, set_request_context
from gateway.errors import PermissionDenied
from gateway.tenants.policy import Caller, Key, Scope, Tenant
from tests.gateway.api.conftest import ServedApp

KNOWN = {"public", "local", "inference", "admin:read", "admin:write"}


async def allowed(access: str | None, *scopes: Scope) -> bool:
    """True if a key with these scopes, or a caller without a key, may use a route."""
    key = Key(id="k", tenant_id="t", scopes=scopes)
    scope: dict[str, Any] = {}
    caller = Caller(tenant=Tenant(name="t"), key=key) if scopes else None
    set_request_context(scope, RequestContext(request_id="r", caller=caller))
    handler = SimpleNamespace(opt={} if access is None else {"access": access})
    try:
        await require_access(cast(Any, SimpleNamespace(scope=scope)), cast(Any, handler))
    except PermissionDenied:
        return False
    return True


@pytest.mark.parametrize("access", [None, "inference", "admin:read", "admin:write", "something"])
async def test_scopes(access: str | None) -> None:
    """The one that a route names; a route that names none, or an unknown one, is closed to all."""
    scopes: tuple[Scope, ...] = ("inference", "admin:read", "admin:write")

    assert not await allowed(access)
    assert [scope for scope in scopes if await allowed(access, scope)] == [scope for scope in scopes if scope == access]


async def test_public_and_local() -> None:
    """Public to all; local to clients that pass the middleware without a key, and to operators."""
    assert await allowed("public")
    assert await allowed("public", "inference")
    assert await allowed("local")
    assert await allowed("local", "admin:read")
    assert not await allowed("local", "inference")


def test_every_route_names_its_access(served_app: ServedApp) -> None:
    """Every route has one, and the open ones are those that the middleware passes without a key."""
    found = {route.path: {handler.opt.get("access") for handler in _handlers(route)} for route in served_app.app.routes}

    assert all(access <= KNOWN for access in found.values()), found
    assert {path for path, access in found.items() if access == {"public"}} == PUBLIC_PATHS
    assert {path for path, access in found.items() if access == {"local"}} == LOCAL_PATHS
    assert all(access <= {"admin:read", "admin:write"} for path, access in found.items() if path.startswith("/admin"))


def _handlers(route: Any) -> list[Any]:  # Any: one of Litestar's kinds of routes
    handlers = list(route.route_handlers) if hasattr(route, "route_handlers") else [route.route_handler]
    return [handler for handler in handlers if getattr(handler, "http_methods", None) != {"OPTIONS"}]
