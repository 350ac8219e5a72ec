"""The gateway's end of the socket pair, on the event loop."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import msgspec

from gateway.engine.messages import FrameBuffer, FromEngine, ToEngine, encode_frame


class EngineConnection(asyncio.Protocol):
    """Messages to and from one engine. Writes never wait: the engine reads between any two steps."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._frames = FrameBuffer()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._unsent: list[bytes] = []
        self._received: list[bytes] = []
        self._has_news = asyncio.Event()
        self._has_closed = asyncio.Event()

    @classmethod
    async def open(cls, ours: socket.socket) -> EngineConnection:
        """Take over a connected stream socket."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, sock=ours)
        return connection

    def send(self, message: ToEngine) -> None:
        """Queue a message. When the engine is gone it is lost, as `receive` will tell.

        What is queued in one turn of the event loop leaves in one write: the engine wakes once and finds one batch.
        """
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(encode_frame(message))

    async def receive(self) -> list[FromEngine] | None:
        """What has arrived, at least one message; None when the engine is gone. May be cancelled without loss."""
        while True:
            await self._has_news.wait()
            received, self._received = self._received, []
            if bodies := [body for data in received for body in self._frames.feed(data)]:
                return [self._decoder.decode(body) for body in bodies]
            if self._has_closed.is_set():
                return None
            self._has_news.clear()

    async def aclose(self) -> None:
        self._flush()
        self._transport.close()
        await self._has_closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        self._has_news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # `receive` tells that it is gone, the process how
        self._has_closed.set()
        self._has_news.set()

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))
