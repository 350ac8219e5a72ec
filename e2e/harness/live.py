"""Streams that are read while the test does something else, each piece of text with the moment it came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise

import aiohttp

from e2e.harness.wire import Json, delta_text, headers


class Live:
    """One stream. Times are of `time.monotonic`; one that is rejected or breaks off raises in its readers."""

    def __init__(self, session: aiohttp.ClientSession, url: str, body: Json, key: str) -> None:
        self.started = time.monotonic()
        self.arrivals: list[float] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read(session, url, {**body, "stream": True}, key))
        self._reading.add_done_callback(lambda _: self._news.set())

    @property
    def is_ended(self) -> bool:
        return self._reading.done()

    @property
    def first_s(self) -> float:
        return self.arrivals[0] - self.started

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.arrivals)]

    def gaps_within(self, begin: float, end: float) -> list[float]:
        """Gaps that ended between two moments."""
        return [later - earlier for earlier, later in pairwise(self.arrivals) if begin <= later <= end]

    async def wait_for(self, pieces: int, *, within_s: float) -> None:
        """Wait until so many pieces of text have arrived. Raises `TimeoutError`."""
        async with asyncio.timeout(within_s):
            while len(self.arrivals) < pieces and not self.is_ended:
                self._news.clear()
                await self._news.wait()
        if len(self.arrivals) < pieces:
            self._reading.result()
            raise AssertionError(f"ended after {len(self.arrivals)} pieces of text instead of {pieces}")

    async def wait_end(self, *, within_s: float) -> None:
        """Wait until the stream is over. Raises `TimeoutError`."""
        async with asyncio.timeout(within_s):
            await asyncio.shield(self._reading)

    async def close(self) -> None:
        """Leave, in the middle if need be."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, session: aiohttp.ClientSession, url: str, body: Json, key: str) -> None:
        async with session.post(url, json=body, headers=headers(key)) as response:
            assert response.status == 200, f"{response.status}: {(await response.text())[:500]}"
            async for line in response.content:
                self._take(line)

    def _take(self, line: bytes) -> None:
        if line.startswith(b"data: {") and delta_text(json.loads(line[6:])):
            self.arrivals.append(time.monotonic())
            self._news.set()


class Client:
    """Streams at once, without limits of its own; those that are open at its end are left."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._lives: list[Live] = []

    def stream(self, url: str, body: Json, key: str) -> Live:
        self._lives.append(Live(self._session, url, body, key))
        return self._lives[-1]

    async def close(self) -> None:
        await asyncio.gather(*(live.close() for live in self._lives))


@asynccontextmanager
async def live_client() -> AsyncGenerator[Client]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as session:
        client = Client(session)
        try:
            yield client
        finally:
            await client.close()
