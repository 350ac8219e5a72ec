"""Records the usage of every request, writes it to the store, and deletes old single requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import count

from gateway.errors import UsageUnavailable
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.store.database import Database
from gateway.tenants.store.errors import StoreError
from gateway.tenants.store.spending import forget_spending, read_spending
from gateway.tenants.store.usage import forget_usage, record_usage
from gateway.tenants.tasks.background import pause
from gateway.tenants.usage.entry import UsageEntry
from gateway.tenants.usage.journal import Journal, read_journal

_log = logging.getLogger(__name__)

BATCH = 1000
"""Rows per turn, so that other writers do not wait for long."""
BUSY_S, IDLE_S = 0.2, 60.0
DAY_S = 86400


class Retention:
    """Deletes old requests in the background, a batch a turn. Without `keep_days` nothing is deleted."""

    def __init__(self, database: Database, *, keep_days: int, wall_clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._keep_s = keep_days * DAY_S
        self._now = wall_clock
        self._is_lost = False

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; a running batch is completed."""
        is_behind = self._keep_s > 0
        while await pause(stop, seconds=BUSY_S if is_behind else IDLE_S):
            is_behind = self._keep_s > 0 and await self.turn()

    async def turn(self) -> bool:
        """Delete a batch. True if there may be more."""
        try:
            async with self._database.session() as session:
                forgotten = await forget_usage(session, before=self._now() - self._keep_s, limit=BATCH)
        except StoreError as error:
            if not self._is_lost:
                _log.warning("%s; old usage is forgotten later", error)
            self._is_lost = True
            return False
        self._is_lost = False
        return forgotten == BATCH


SYNC_S = 0.05
_DRAIN_EVERY = 20


class UsageRecorder:
    """Records usage. While the journal cannot be written, requests are rejected: no usage goes unrecorded."""

    def __init__(self, journal: Journal, database: Database, limiter: Limiter) -> None:
        self.journal = journal
        self._limiter = limiter
        self._database = database
        self._draining = asyncio.Lock()
        self._syncing = asyncio.Lock()
        self._is_lost = False

    async def open(self) -> None:
        """Drain the journals of earlier gateways, so that budgets are right from the start. Raises `StoreError`."""
        await self.drain()
        async with self._database.session() as session:
            await forget_spending(session, now=time.time())

    def admit(self) -> None:
        """Raises `UsageUnavailable`."""
        if self.journal.is_broken:
            raise UsageUnavailable("usage cannot be written down now, so nothing is served; try again soon")

    def record(self, entry: UsageEntry) -> None:
        """Record a request. Call it once, before the last byte of its response is sent."""
        self.journal.append(entry)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; a running turn is completed."""
        turns = count()
        while await pause(stop, seconds=SYNC_S):
            self.journal.retry()
            await self._sync()
            if next(turns) % _DRAIN_EVERY == 0:
                await self._drain_quietly()

    async def drain(self) -> None:
        """Move all journal lines to the store. Raises `StoreError`, and loses nothing."""
        async with self._draining:
            async with self._syncing:
                self._limiter.budgets.begin_drain()
                self.journal.rotate()
            finished = self.journal.finished()
            for path in finished:
                entries = await asyncio.to_thread(read_journal, path)
                if entries:
                    async with self._database.session() as session:
                        await record_usage(session, entries)
                path.unlink(missing_ok=True)
            if finished or not self._limiter.shares.are_whole:
                await self._read_back()

    async def aclose(self) -> None:
        """Drain once more. What the store does not accept now is read at the next start."""
        try:
            self.journal.retry()
            self.journal.sync()
            await self._drain_quietly()
        finally:
            self.journal.close()

    async def _sync(self) -> None:
        """Flush to disk in a thread. The file must not change meanwhile: one closed during that still seems in use."""
        async with self._syncing:
            await asyncio.to_thread(self.journal.sync)

    async def _read_back(self) -> None:
        """Read the spending of all gateways for budgets. What waits in memory is not in the store."""
        subjects = self._limiter.budgets.active()
        if not subjects or self.journal.is_broken:
            return
        async with self._database.session() as session:
            spent = await read_spending(session, subjects, now=time.time())
        self._limiter.budgets.end_drain(subjects, spent)

    async def _drain_quietly(self) -> None:
        try:
            await self.drain()
        except (StoreError, OSError) as error:
            if not self._is_lost:
                _log.warning("%s; usage waits in the journal", error)
            self._is_lost = True
            return
        self._is_lost = False
