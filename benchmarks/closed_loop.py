"""A client of little cost compared with a gateway: raw connections that are kept, each with one open request."""

from __future__ import annotations

import asyncio
import time
from typing import cast
from urllib.parse import urlsplit

import msgspec

from benchmarks.record import NothingMeasured

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Responses in one stretch of a closed loop: seconds of each, and of all together."""

    latencies_s: tuple[float, ...]
    wall_s: float
    client_cpu: float
    """Share of its core that this client took; near 1 it measures itself."""

    def __post_init__(self) -> None:
        if not self.latencies_s:
            raise NothingMeasured("no answer arrived within the window; measure longer")

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.wall_s


async def closed_loop(url: str, body: object, *, key: str, streams: int, seconds: float) -> Asked:
    """Keep `streams` connections busy with one request each. Raises `ConnectionError` unless all get 200."""
    parts = urlsplit(url)
    request = _request(parts.path, parts.netloc, body, key)
    loop = asyncio.get_running_loop()
    address = parts.hostname or "", parts.port or 80
    opened = [await loop.create_connection(_Connection, *address) for _ in range(streams)]
    start, used = time.perf_counter(), time.process_time()
    asked = [_ask_until(connection, request, start + seconds) for _, connection in opened]
    latencies = await asyncio.gather(*asked)
    wall = time.perf_counter() - start
    used = time.process_time() - used
    for transport, _ in opened:
        transport.close()
    together = tuple(latency for each in latencies for latency in each)
    return Asked(latencies_s=together, wall_s=wall, client_cpu=used / wall)


async def _ask_until(connection: _Connection, request: bytes, end: float) -> list[float]:
    found = []
    while (start := time.perf_counter()) < end:
        await connection.ask(request)
        found.append(time.perf_counter() - start)
    return found


def _request(path: str, host: str, body: object, key: str) -> bytes:
    encoded = msgspec.json.encode(body)
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Authorization: Bearer {key}",
        f"Content-Length: {len(encoded)}",
    ]
    return "\r\n".join(lines).encode() + _HEAD_END + encoded


class _Connection(asyncio.Protocol):
    """Supports responses with a `Content-Length`, which whole bodies have."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[None]:
        self._received = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_HEAD_END)
        if end < 0 or self._answer is None:
            return
        head = self._received[: end + 2].lower()
        at = head.index(_LENGTH) + len(_LENGTH)
        if len(self._received) < end + len(_HEAD_END) + int(head[at : head.index(b"\r\n", at)]):
            return
        if head[9:12] == b"200":
            self._answer.set_result(None)
        else:
            self._answer.set_exception(ConnectionError(f"answered with {self._received[:800]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("closed before the answer"))
