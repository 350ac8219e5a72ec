"""All of `/admin/v1`."""

from __future__ import annotations

from litestar.handlers import HTTPRouteHandler

from gateway.api.admin.audit import audit_routes
from gateway.api.admin.desk import Desk
from gateway.api.admin.keys import key_routes
from gateway.api.admin.tenants import tenant_routes
from gateway.api.admin.usage import usage_routes
from gateway.services import Services


def admin_routes(services: Services) -> list[HTTPRouteHandler]:
    desk = Desk(services)
    return [*tenant_routes(desk), *key_routes(desk), *audit_routes(desk), *usage_routes(desk)]
