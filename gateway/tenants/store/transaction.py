"""Changes of the store: one transaction, one version, one audit log entry for each action."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.store.database import Database
from gateway.tenants.store.tables import AuditRow, StateRow

_encode = msgspec.json.Encoder(order="deterministic").encode


class Actor(msgspec.Struct, frozen=True):
    """Author of a change, and the request in which it was made."""

    name: str
    request_id: str = ""


class Change:
    """Open change. Rows are changed through `session` and stamped with `version`."""

    def __init__(self, session: AsyncSession, actor: Actor, version: int) -> None:
        self.session = session
        self.version = version
        self.now = time.time()
        self._actor = actor

    async def log(self, action: str, target: str, detail: object) -> None:
        """Append to the audit log. `detail` must not contain a secret."""
        last = await self.session.scalar(select(AuditRow).order_by(AuditRow.number.desc()).limit(1))
        row = AuditRow(
            number=1 if last is None else last.number + 1,
            at=self.now,
            actor=self._actor.name,
            action=action,
            target=target,
            request_id=self._actor.request_id,
            detail=_encode(detail).decode(),
        )
        row.digest = audit_digest(row, previous="" if last is None else last.digest)
        self.session.add(row)
        await self.session.flush()


@asynccontextmanager
async def change(database: Database, actor: Actor) -> AsyncGenerator[Change]:
    """Open a change. Changes are serialised: the row of the version is locked until the end of the block."""
    async with database.session() as session:
        statement = update(StateRow).values(version=StateRow.version + 1).returning(StateRow.version)
        version = (await session.execute(statement)).scalar_one()
        yield Change(session, actor, version)


def audit_digest(row: AuditRow, *, previous: str) -> str:
    """SHA-256 in hex over the digest before and every field of the row."""
    fields = [previous, row.number, row.at, row.actor, row.action, row.target, row.request_id, row.detail]
    return hashlib.sha256(_encode(fields)).hexdigest()
