"""Usage in the store: each request once, and sums by hour in the same transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, cast

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Table, delete, func, select, tuple_
from sqlalchemy import cast as cast_type
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.limits.prices import NANOS
from gateway.tenants.store.errors import UnknownEntry
from gateway.tenants.store.spending import add_spending
from gateway.tenants.store.statements import batches, insert_into
from gateway.tenants.store.tables import TenantRow, UsageHourRow, UsageRow
from gateway.tenants.usage.entry import State, UsageEntry, UsageRecord

HOUR_S = 3600
TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "accepted_prediction_tokens")
SUMS = (*TOKENS, "cost_nanos")
Grouping = Literal["tenant", "key", "model", "hour"]
_COLUMNS = {
    "tenant": UsageHourRow.tenant_id,
    "key": UsageHourRow.key_id,
    "model": UsageHourRow.model,
    "hour": UsageHourRow.hour,
}


class UsageSpan(msgspec.Struct, frozen=True, kw_only=True):
    """Selects usage of a tenant by id, and from one Unix second, inclusive, to another, exclusive."""

    tenant_id: str | None = None
    start: float = 0.0
    end: float = 1e12


class UsageSum(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sums over a group. `tenant` and `key` are ids; `hour` is its start, in Unix seconds.

    `cost` is in the operator's currency.
    """

    object: Literal["usage"] = "usage"
    tenant: str | None = None
    tenant_name: str | None = None
    key: str | None = None
    model: str | None = None
    hour: int | None = None
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    accepted_prediction_tokens: int
    cost: float


async def record_usage(session: AsyncSession, entries: Sequence[UsageEntry]) -> None:
    """Record requests. Entries that exist already change nothing, so a journal may be read twice."""
    for batch in batches(entries):
        fresh = await _insert(session, {entry.id: entry for entry in batch})
        await _add_to_hours(session, fresh)
        await add_spending(session, fresh)


async def sum_usage(session: AsyncSession, span: UsageSpan, by: Sequence[Grouping]) -> list[UsageSum]:
    """Sums of whole hours that overlap the span, in the order of the groups."""
    columns = [_COLUMNS[name].label(name) for name in by]
    sums = [cast_type(func.sum(getattr(UsageHourRow, name)), BigInteger).label(name) for name in ("requests", *SUMS)]
    statement = select(*columns, *sums).where(
        UsageHourRow.hour > span.start - HOUR_S, UsageHourRow.hour < span.end, *_of_tenant(UsageHourRow, span)
    )
    rows = (await session.execute(statement.group_by(*columns).order_by(*columns) if columns else statement)).mappings()
    found = [{name: value for name, value in row.items() if value is not None} for row in rows]
    names = await _tenant_names(session) if "tenant" in by else {}
    return [_sum(row, names) for row in found if row.get("requests")]


async def list_usage(session: AsyncSession, span: UsageSpan, *, after: str, limit: int) -> list[UsageRecord]:
    """Requests in the order of their end, after the one with the id `after`. Raises `UnknownEntry`."""
    order = (UsageRow.ended_at, UsageRow.id)
    statement = select(UsageRow).where(
        UsageRow.ended_at >= span.start, UsageRow.ended_at < span.end, *_of_tenant(UsageRow, span)
    )
    if after:
        last = await session.get(UsageRow, after)
        if last is None:
            raise UnknownEntry(f"there is no usage {after!r}")
        statement = statement.where(tuple_(*order) > (last.ended_at, last.id))
    return [_record(row) for row in await session.scalars(statement.order_by(*order).limit(limit))]


async def forget_usage(session: AsyncSession, *, before: float, limit: int) -> int:
    """Delete the oldest requests that ended before that Unix second, at most `limit`; sums remain. Returns how many."""
    oldest = select(UsageRow.id).where(UsageRow.ended_at < before).order_by(UsageRow.ended_at, UsageRow.id).limit(limit)
    gone = await session.scalars(delete(UsageRow).where(UsageRow.id.in_(oldest)).returning(UsageRow.id))
    return len(gone.all())


async def _insert(session: AsyncSession, entries: dict[str, UsageEntry]) -> list[UsageEntry]:
    """Insert entries. Returns those that are new."""
    rows = [msgspec.to_builtins(entry) for entry in entries.values()]
    statement = insert_into(session, UsageRow).on_conflict_do_nothing(index_elements=["id"]).returning(UsageRow.id)
    # As parameters, not as values of the statement, which would be compiled again for each number of rows.
    fresh = await session.scalars(statement, rows)
    return [entries[key] for key in fresh]


async def _add_to_hours(session: AsyncSession, entries: list[UsageEntry]) -> None:
    hours: dict[tuple[int, str, str, str], list[UsageEntry]] = defaultdict(list)
    for entry in entries:
        hour = int(entry.ended_at // HOUR_S) * HOUR_S
        hours[hour, entry.tenant_id, entry.key_id, entry.model].append(entry)
    if not hours:
        return
    keys = ("hour", "tenant_id", "key_id", "model")
    # In a fixed order, so that two gateways that write the same hours never deadlock.
    rows = [dict(zip(keys, key, strict=True)) | _totals(found) for key, found in sorted(hours.items())]
    statement = insert_into(session, UsageHourRow).values(rows)
    table = cast(Table, UsageHourRow.__table__)
    added = {name: table.c[name] + statement.excluded[name] for name in ("requests", *SUMS)}
    await session.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=added))


def _totals(entries: list[UsageEntry]) -> dict[str, int]:
    return {"requests": len(entries)} | {name: sum(getattr(entry, name) for entry in entries) for name in SUMS}


def _of_tenant(kind: type[UsageRow] | type[UsageHourRow], span: UsageSpan) -> list[ColumnElement[bool]]:
    return [] if span.tenant_id is None else [kind.tenant_id == span.tenant_id]


async def _tenant_names(session: AsyncSession) -> dict[str, str]:
    return {row.id: row.name for row in await session.execute(select(TenantRow.id, TenantRow.name))}


def _sum(row: dict[str, object], names: dict[str, str]) -> UsageSum:
    name = names.get(str(row.get("tenant")))
    cost = {"cost": cast(int, row.pop("cost_nanos")) / NANOS}
    return msgspec.convert(row | cost | ({"tenant_name": name} if name else {}), UsageSum, strict=False)


def _record(row: UsageRow) -> UsageRecord:
    return UsageRecord(
        id=row.id,
        request_id=row.request_id,
        tenant_id=row.tenant_id,
        key_id=row.key_id,
        model=row.model,
        state=cast(State, row.state),
        started_at=row.started_at,
        ended_at=row.ended_at,
        cost=row.cost_nanos / NANOS,
        **{name: getattr(row, name) for name in TOKENS},
    )
