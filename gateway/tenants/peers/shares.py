"""Shares of every limit that this gateway may grant, when several serve the same tenants.

The shares of all live gateways never exceed the limit: each takes only what the others have given up, and gives up
only what it does not use. A single gateway has the whole limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from gateway.errors import ShareTooSmall

WHOLE = 1 << 16
PATIENCE_S = 2.0
"""Seconds that a request waits for another gateway to give up unused share."""

T = TypeVar("T")


class Granted(msgspec.Struct, frozen=True):
    """Default share of every limit, and those of single subjects that differ."""

    default: int
    own: dict[str, int]


class Shares:
    """Shares of this gateway in parts of `WHOLE`."""

    def __init__(self) -> None:
        self._granted = Granted(WHOLE, {})
        self._wanted: set[str] = set()
        self._moved = asyncio.Event()
        self.is_wanted = asyncio.Event()

    @property
    def are_whole(self) -> bool:
        return self._granted.default == WHOLE

    def of(self, subject: str) -> int:
        return self._granted.own.get(subject, self._granted.default)

    def granted(self, limit: int, subject: str) -> int:
        """Part of a limit that this gateway may grant: at least one if it has any share."""
        share = self.of(subject)
        if share == WHOLE:
            return limit
        return max(1, limit * share // WHOLE) if share else 0

    def want(self, subject: str) -> None:
        """Note that a request would fit the whole limit but not this share."""
        self._wanted.add(subject)
        self.is_wanted.set()

    def take_wanted(self) -> set[str]:
        """Return and clear the subjects that wanted more since the last call."""
        wanted, self._wanted = self._wanted, set()
        self.is_wanted.clear()
        return wanted

    def take_over(self, granted: Granted) -> None:
        """Apply new shares; requests that wait for them try again."""
        if granted == self._granted:
            return
        self._granted = granted
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def granted_soon(self, take: Callable[[], T]) -> T:
        """Result of `take`, tried again whenever shares change. Raises its error when `PATIENCE_S` is over."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return take()
            except ShareTooSmall:
                if not await self._moves_before(until):
                    raise

    async def _moves_before(self, until: float) -> bool:
        moved = asyncio.create_task(self._moved.wait())
        try:
            return bool((await asyncio.wait([moved], timeout=max(0.0, until - time.monotonic())))[0])
        finally:
            moved.cancel()
