"""Reads and verifies the audit log."""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.records import AuditRecord
from gateway.tenants.store.tables import AuditRow
from gateway.tenants.store.transaction import audit_digest

_BATCH = 1000


async def list_audit(session: AsyncSession, *, after: int, limit: int) -> list[AuditRecord]:
    """Entries after the number `after`, oldest first."""
    statement = select(AuditRow).where(AuditRow.number > after).order_by(AuditRow.number).limit(limit)
    return [_record(row) for row in await session.scalars(statement)]


async def first_broken(session: AsyncSession) -> int | None:
    """The first number at which the log was altered or a line is missing; None if it is whole."""
    number, previous = 0, ""
    while True:
        statement = select(AuditRow).where(AuditRow.number > number).order_by(AuditRow.number).limit(_BATCH)
        rows = (await session.scalars(statement)).all()
        for row in rows:
            number += 1
            if row.number != number or row.digest != audit_digest(row, previous=previous):
                return number
            previous = row.digest
        if len(rows) < _BATCH:
            return None


def _record(row: AuditRow) -> AuditRecord:
    return AuditRecord(
        number=row.number,
        at=row.at,
        actor=row.actor,
        action=row.action,
        target=row.target,
        request_id=row.request_id,
        detail=msgspec.Raw(row.detail.encode()),
        digest=row.digest,
    )
