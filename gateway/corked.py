"""A transport whose writes of one turn of the event loop leave in one: one system call, one waking of the other end."""

from __future__ import annotations

import asyncio
from typing import Any


class Corked:
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
