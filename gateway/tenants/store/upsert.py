"""Inserts that know what to do about a row that is there already, in the words of each database."""

from __future__ import annotations

from advanced_alchemy.base import DefaultBase
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession


def insert_into(session: AsyncSession, kind: type[DefaultBase]) -> sqlite.Insert | postgresql.Insert:
    dialect = session.get_bind().dialect.name
    return sqlite.insert(kind) if dialect == "sqlite" else postgresql.insert(kind)
