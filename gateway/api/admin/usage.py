"""Routes of `/admin/v1/usage` (sums by tenant, key, model and hour, and single requests) and `/admin/v1/audit`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.api.admin.context import PAGE, AdminContext, After, Limit, Page, page_of
from gateway.api.admin.description import AUDIT_ENTRY, USAGE_SUM, USED_REQUEST, Description, described, page_example
from gateway.api.auth import ADMIN_READ
from gateway.errors import InvalidRequest
from gateway.tenants.records import AuditRecord
from gateway.tenants.store.audit import first_broken, list_audit
from gateway.tenants.store.tenants import find_tenant
from gateway.tenants.store.usage import Grouping, UsageSpan, UsageSum, list_usage, sum_usage
from gateway.tenants.usage.entry import UsageEntry, UsageRecord

AUDIT = "/admin/v1/audit"
AfterNumber = Annotated[
    int, QueryParameter(ge=0, le=2**62, description="`number` of the last entry of the previous page")
]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Tells whether each entry follows from those before it; `broken_at` is the first number that does not."""

    whole: bool
    broken_at: int | None


def audit_routes(context: AdminContext) -> list[HTTPRouteHandler]:
    @get(
        AUDIT,
        opt=described(ADMIN_READ, Description(answer=page_example(AUDIT_ENTRY), problems=(400,))),
        operation_id="listAudit",
        summary="The audit log, oldest entry first",
    )
    async def audit(after: AfterNumber = 0, limit: Limit = PAGE) -> Page[AuditRecord]:
        async with context.session() as session:
            return page_of(await list_audit(session, after=after, limit=limit + 1), limit=limit)

    @get(
        AUDIT + "/verify",
        opt=described(ADMIN_READ, Description(answer={"whole": True, "broken_at": None})),
        operation_id="verifyAudit",
        summary="Whether the log is complete and unchanged",
    )
    async def verdict() -> Verdict:
        async with context.session() as session:
            broken_at = await first_broken(session)
        return Verdict(whole=broken_at is None, broken_at=broken_at)

    return [audit, verdict]


USAGE = "/admin/v1/usage"
GROUPS: tuple[Grouping, ...] = get_args(Grouping)

OfTenant = Annotated[str | None, QueryParameter(max_length=128, description="Name or id of a tenant")]
Since = Annotated[float, QueryParameter(ge=0, le=1e12, description="Unix seconds, inclusive")]
Until = Annotated[float, QueryParameter(ge=0, le=1e12, description="Unix seconds, exclusive")]
GroupBy = Annotated[str, QueryParameter(max_length=64, description=f"Any of {', '.join(GROUPS)}, separated by commas")]
UsageFormat = Annotated[Literal["json", "csv"], QueryParameter(description="Format of the response")]
_LATEST = 1e12


AnyResponse = Response[Any]  # Any: a page, or its lines as bytes


def usage_routes(context: AdminContext) -> list[HTTPRouteHandler]:
    @get(
        USAGE,
        opt=described(
            ADMIN_READ,
            Description(response=Page[UsageSum], answer=page_example(USAGE_SUM), also="text/csv", problems=(400, 404)),
        ),
        operation_id="sumUsage",
        summary="Usage, aggregated",
        description="In whole hours. With `format=csv` the response is text/csv.",
    )
    async def usage(
        tenant: OfTenant = None,
        start: Since = 0,
        end: Until = _LATEST,
        group_by: GroupBy = "",
        format: UsageFormat = "json",
    ) -> AnyResponse:
        groups = _groups(group_by)
        await context.drain()
        async with context.session() as session:
            sums = await sum_usage(session, await _span(session, tenant, start, end), groups)
        return _answer(Page(data=sums, has_more=False), UsageSum, format)

    @get(
        USAGE + "/requests",
        opt=described(
            ADMIN_READ,
            Description(
                response=Page[UsageEntry],
                answer=page_example(USED_REQUEST),
                also="text/csv",
                problems=(400, 404),
            ),
        ),
        operation_id="listUsage",
        summary="Single requests, in the order in which they ended",
        description="With `format=csv` the response is text/csv, and `x-has-more` says whether there are more.",
    )
    async def requests(
        tenant: OfTenant = None,
        start: Since = 0,
        end: Until = _LATEST,
        after: After = "",
        limit: Limit = PAGE,
        format: UsageFormat = "json",
    ) -> AnyResponse:
        await context.drain()
        async with context.session() as session:
            span = await _span(session, tenant, start, end)
            found = await list_usage(session, span, after=after, limit=limit + 1)
        return _answer(page_of(found, limit=limit), UsageRecord, format)

    return [usage, requests]


async def _span(session: AsyncSession, tenant: str | None, start: float, end: float) -> UsageSpan:
    tenant_id = None if tenant is None else (await find_tenant(session, tenant)).id
    return UsageSpan(tenant_id=tenant_id, start=start, end=end)


def _groups(text: str) -> list[Grouping]:
    """Raises `InvalidRequest`."""
    names = [name for name in text.split(",") if name]
    known = [group for group in GROUPS if group in names]
    if len(known) != len(names):
        raise InvalidRequest(f"group_by takes some of {', '.join(GROUPS)}, each once", param="group_by")
    return known


def _answer(page: Page[UsageSum] | Page[UsageRecord], kind: type[msgspec.Struct], form: str) -> AnyResponse:
    if form == "json":
        return Response(page)
    headers = {"x-has-more": str(page.has_more).lower()}
    return Response(_csv(page.data, kind.__struct_fields__), media_type="text/csv", headers=headers)


def _csv(rows: Sequence[msgspec.Struct], columns: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([getattr(row, column) for column in columns] for row in rows)
    return text.getvalue().encode()
