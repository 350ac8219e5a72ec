"""Forgets single requests of long ago; what they sum to by the hour stays."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from gateway.tenants.store.database import Database
from gateway.tenants.store.errors import StoreError
from gateway.tenants.store.usage import forget_usage
from gateway.tenants.tasks.background import pause

_log = logging.getLogger(__name__)

BATCH = 1000
"""Rows of a turn, so that nobody who writes waits for long."""
BUSY_S, IDLE_S = 0.2, 60.0
DAY_S = 86400


class Retention:
    """Works beside everything else, a batch a turn. Without `keep_days` nothing is forgotten."""

    def __init__(self, database: Database, *, keep_days: int, wall_clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._keep_s = keep_days * DAY_S
        self._now = wall_clock
        self._is_lost = False

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; a batch that has begun is ended."""
        is_behind = self._keep_s > 0
        while await pause(stop, seconds=BUSY_S if is_behind else IDLE_S):
            is_behind = self._keep_s > 0 and await self.turn()

    async def turn(self) -> bool:
        """Forget a batch. Whether there may be more."""
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
