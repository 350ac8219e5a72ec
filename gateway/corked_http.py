"""HTTP connections whose writes of one turn of the event loop leave in one.

uvicorn writes the head of an answer, its body and each chunk one by one, and each would be a system call, a segment on
its way and a wake-up of the client.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.corked import Corked


class CorkedProtocol(HttpToolsProtocol):
    """uvicorn's own, over a corked transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        corked = Corked(cast("asyncio.Transport", transport))
        super().connection_made(cast("asyncio.Transport", corked))
