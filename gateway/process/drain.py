"""Drain state of the server: whether it accepts new requests, and how many are running."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


class Drain:
    """Open at first; `close` rejects new requests while running ones finish. Used on one event loop."""

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
        """Reject new requests from now on. May be called twice."""
        self._closed.set()

    @contextmanager
    def request(self) -> Generator[None]:
        """Count a request as running until the block ends."""
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
        """Return when no request is running; at once if there is none."""
        await self._empty.wait()
