"""`/admin/v1/audit`: who did what, and whether the log is whole."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from gateway.api.access import ADMIN_READ
from gateway.api.admin.desk import PAGE, Desk, Limit, Page, page_of
from gateway.tenants.records import AuditRecord
from gateway.tenants.store.audit import first_broken, list_audit

AUDIT = "/admin/v1/audit"
AfterNumber = Annotated[
    int, QueryParameter(ge=0, le=2**62, description="The number of the last entry of the page before")
]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether each entry follows from those before it; `broken_at` is the first number that does not."""

    whole: bool
    broken_at: int | None


def audit_routes(desk: Desk) -> list[HTTPRouteHandler]:
    @get(AUDIT, opt=ADMIN_READ)
    async def audit(after: AfterNumber = 0, limit: Limit = PAGE) -> Page[AuditRecord]:
        async with desk.session() as session:
            return page_of(await list_audit(session, after=after, limit=limit + 1), limit=limit)

    @get(AUDIT + "/verify", opt=ADMIN_READ)
    async def verdict() -> Verdict:
        async with desk.session() as session:
            broken_at = await first_broken(session)
        return Verdict(whole=broken_at is None, broken_at=broken_at)

    return [audit, verdict]
