"""Spending of subjects in a day and a month: added to as requests are recorded, read by gateways."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import cast, get_args

from sqlalchemy import Table, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.limits.budgets import Amount, Spent
from gateway.tenants.limits.prices import Period, span_of
from gateway.tenants.limits.subjects import key_subject_id, model_subject_id, tenant_subject_id
from gateway.tenants.store.statements import batches, insert_into
from gateway.tenants.store.tables import SpendingRow
from gateway.tenants.usage.entry import UsageEntry

PERIODS: tuple[Period, ...] = get_args(Period)
_KEY = ("subject", "period", "begins")
_KEPT_S = 62 * 86400


async def add_spending(session: AsyncSession, entries: Sequence[UsageEntry]) -> None:
    """Add the cost of entries, in the transaction that records them, so that the sums agree."""
    totals: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for entry in entries:
        for key in _keys(entry):
            total = totals[key]
            total[0] += entry.prompt_tokens + entry.completion_tokens
            total[1] += entry.cost_nanos
    # In a fixed order, so that two gateways that write the same rows never deadlock.
    for batch in batches(sorted(totals.items())):
        rows = [dict(zip(_KEY, key, strict=True)) | {"tokens": t, "cost_nanos": nanos} for key, (t, nanos) in batch]
        statement = insert_into(session, SpendingRow).values(rows)
        table = cast(Table, SpendingRow.__table__)
        added = {name: table.c[name] + statement.excluded[name] for name in ("tokens", "cost_nanos")}
        await session.execute(statement.on_conflict_do_update(index_elements=list(_KEY), set_=added))


async def read_spending(session: AsyncSession, subjects: Iterable[str], *, now: float) -> list[Spent]:
    """Spending in the day and the month that contain `now`, in Unix seconds."""
    begins = [span_of(period, now).begins for period in PERIODS]
    found: list[Spent] = []
    for batch in batches(subjects):
        statement = select(SpendingRow).where(SpendingRow.subject.in_(batch), SpendingRow.begins.in_(begins))
        found += [_spent(row) for row in await session.scalars(statement)]
    return found


async def forget_spending(session: AsyncSession, *, now: float) -> None:
    """Delete the spending of days and months long past."""
    await session.execute(delete(SpendingRow).where(SpendingRow.begins < now - _KEPT_S))


def _keys(entry: UsageEntry) -> Iterator[tuple[str, str, int]]:
    subjects = (
        tenant_subject_id(entry.tenant_id),
        key_subject_id(entry.key_id),
        model_subject_id(entry.tenant_id, entry.base),
    )
    for period in PERIODS:
        begins = span_of(period, entry.ended_at).begins
        for subject in subjects:
            yield subject, period, begins


def _spent(row: SpendingRow) -> Spent:
    amount = Amount(row.tokens, row.cost_nanos)
    return Spent(subject=row.subject, period=cast(Period, row.period), begins=row.begins, amount=amount)
