"""Keeps the directory up to date with the store, and stores when keys were last used."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from itertools import count

from gateway.tenants.auth.directory import Changes, Directory
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.limits.subjects import Subject, all_subjects, key_subject
from gateway.tenants.store.database import Database
from gateway.tenants.store.errors import StoreError
from gateway.tenants.store.keys import changes_since, note_used
from gateway.tenants.store.spending import read_spending
from gateway.tenants.tasks.background import pause

_log = logging.getLogger(__name__)

INTERVAL_S = 0.4
"""Seconds; a key that another gateway revoked is rejected within a second."""
_NOTE_EVERY = 25


class Refresher:
    """Reads changes periodically. While the store is unreachable, requests use the last known state."""

    def __init__(self, database: Database, directory: Directory, limiter: Limiter) -> None:
        self._database = database
        self._directory = directory
        self._budgets = limiter.budgets
        self._is_lost = False

    async def refresh(self) -> None:
        """Apply all changes now. Raises `StoreError`."""
        async with self._database.session() as session:
            changes = await changes_since(session, self._directory.version)
            if changes is None:
                return
            unknown = self._budgets.unknown(_subjects(changes))
            spent = await read_spending(session, [subject.id for subject in unknown], now=time.time())
        self._budgets.learn(unknown, spent)
        self._directory.apply(changes)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; a running turn is completed."""
        turns = count()
        while await pause(stop, seconds=INTERVAL_S):
            await self._turn(notes=next(turns) % _NOTE_EVERY == 0)

    async def note_used(self) -> None:
        used = self._directory.take_used()
        if used:
            async with self._database.session() as session:
                await note_used(session, used)

    async def _turn(self, *, notes: bool) -> None:
        try:
            await self.refresh()
            if notes:
                await self.note_used()
        except StoreError as error:
            if not self._is_lost:
                _log.warning("%s; requests go on with the keys known so far", error)
            self._is_lost = True
            return
        if self._is_lost:
            _log.info("the store can be used again")
        self._is_lost = False


def _subjects(changes: Changes) -> Iterator[Subject]:
    for tenant in changes.tenants.values():
        if tenant is not None:
            yield from all_subjects(tenant)
    for entry in changes.keys:
        if entry.key is not None:
            yield key_subject(entry.key)
