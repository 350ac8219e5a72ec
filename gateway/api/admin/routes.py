"""All routes of `/admin/v1`."""

from __future__ import annotations

from litestar.handlers import HTTPRouteHandler

from gateway.api.admin.context import AdminContext
from gateway.api.admin.tenants import key_routes, tenant_routes
from gateway.api.admin.usage import audit_routes, usage_routes
from gateway.api.services import Services


def admin_routes(services: Services) -> list[HTTPRouteHandler]:
    context = AdminContext(services)
    return [*tenant_routes(context), *key_routes(context), *audit_routes(context), *usage_routes(context)]
