"""Whether the house takes new requests, and how many are inside."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


class Drain:
    """Open at first; `close` refuses new requests while those inside finish. Used on one event loop."""

    def __init__(self) -> None:
        self._closed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._num_open = 0

    @property
    def num_open(self) -> int:
        """Requests that have entered and not yet ended."""
        return self._num_open

    def accepting(self) -> bool:
        return not self._closed.is_set()

    def close(self) -> None:
        """Refuse new requests from now on. May be called twice."""
        self._closed.set()

    @contextmanager
    def request(self) -> Generator[None]:
        """Count a request as inside, however it ends."""
        self._num_open += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._num_open -= 1
            if self._num_open == 0:
                self._empty.set()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def wait_empty(self) -> None:
        """Return when nobody is inside; at once if nobody is."""
        await self._empty.wait()
