"""Coalesces writes: what one turn of the event loop writes to a connection leaves in one system call.

uvicorn writes the head of an answer, its body and each chunk one by one, and each would be a system call, a segment on
its way and a wake-up of the client.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CoalescingTransport:
    """A transport that lets go of what was written when the turn ends; all else is the transport's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)

    def close(self) -> None:
        """After what was written."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # Any: whatever else the transport can do
        return getattr(self._transport, name)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))


class CoalescingProtocol(HttpToolsProtocol):
    """uvicorn's own, over a corked transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        corked = CoalescingTransport(cast("asyncio.Transport", transport))
        super().connection_made(cast("asyncio.Transport", corked))
