"""Coalesces writes: all writes to a connection in one iteration of the event loop become one system call.

uvicorn writes the head of a response, its body and each chunk one by one, and each would be a system call, a network
segment and a wake-up of the client.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CoalescingTransport:
    """Transport that flushes its writes when the iteration ends; all else is the wrapped transport's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)

    def close(self) -> None:
        """Close after flushing."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # Any: any other method of the transport
        return getattr(self._transport, name)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))


class CoalescingProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, over a coalescing transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        corked = CoalescingTransport(cast("asyncio.Transport", transport))
        super().connection_made(cast("asyncio.Transport", corked))
