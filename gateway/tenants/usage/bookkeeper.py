"""Writes down what every request used, and brings it into the store."""

from __future__ import annotations

import asyncio
import logging

from gateway.errors import UsageUnavailable
from gateway.tenants.store.database import Database
from gateway.tenants.store.errors import StoreError
from gateway.tenants.store.usage import record_usage
from gateway.tenants.usage.entry import UsageEntry
from gateway.tenants.usage.journal import Journal, read_journal

_log = logging.getLogger(__name__)

SYNC_S = 0.05
_DRAIN_EVERY = 20


class Bookkeeper:
    """Nothing runs that could not be written down: while the journal cannot be written, requests are refused."""

    def __init__(self, journal: Journal, database: Database) -> None:
        self.journal = journal
        self._database = database
        self._draining = asyncio.Lock()
        self._is_lost = False

    def admit(self) -> None:
        """Raises `UsageUnavailable`."""
        if self.journal.is_broken:
            raise UsageUnavailable("usage cannot be written down now, so nothing is served; try again soon")

    def record(self, entry: UsageEntry) -> None:
        """To be called once a request, before the last byte of its answer leaves."""
        self.journal.append(entry)

    async def run(self) -> None:
        """Until cancelled."""
        for turn in range(10**18):
            await asyncio.sleep(SYNC_S)
            self.journal.retry()
            await asyncio.to_thread(self.journal.sync)
            if turn % _DRAIN_EVERY == 0:
                await self._drain_quietly()

    async def drain(self) -> None:
        """Bring everything that is written into the store. Raises `StoreError`, and loses nothing."""
        async with self._draining:
            self.journal.rotate()
            for path in self.journal.finished():
                entries = await asyncio.to_thread(read_journal, path)
                if entries:
                    async with self._database.session() as session:
                        await record_usage(session, entries)
                path.unlink(missing_ok=True)

    async def aclose(self) -> None:
        """Drain once more. What the store does not take now, the next start finds."""
        self.journal.retry()
        self.journal.sync()
        await self._drain_quietly()
        self.journal.close()

    async def _drain_quietly(self) -> None:
        try:
            await self.drain()
        except (StoreError, OSError) as error:
            if not self._is_lost:
                _log.warning("%s; usage waits in the journal", error)
            self._is_lost = True
            return
        self._is_lost = False
