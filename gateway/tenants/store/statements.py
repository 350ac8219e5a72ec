"""Statements in the dialect of each database: inserts that update existing rows, and batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.store.tables import StoreRow

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql


T = TypeVar("T")
_BATCH = 500


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Split the items, in order, into batches that fit one statement."""
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def insert_into(session: AsyncSession, kind: type[StoreRow]) -> sqlite.Insert | postgresql.Insert:
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(kind)
    from sqlalchemy.dialects import postgresql  # 40 ms of a start that a SQLite store does without

    return postgresql.insert(kind)
