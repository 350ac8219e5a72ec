"""Inserts that know what to do about a row that is there already, in the words of each database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.store.tables import Row

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql


def insert_into(session: AsyncSession, kind: type[Row]) -> sqlite.Insert | postgresql.Insert:
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(kind)
    from sqlalchemy.dialects import postgresql  # 40 ms of a start that a SQLite store does without

    return postgresql.insert(kind)
