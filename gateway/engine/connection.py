"""The gateway's end of the socket pair, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import msgspec

from gateway.engine.messages import FrameBuffer, FromEngine, ToEngine, encode_frame

_READ_BYTES = 256 * 1024


class EngineConnection:
    """Messages to and from one engine. Writes never wait: the engine reads between any two steps."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameBuffer()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)

    @classmethod
    async def open(cls, ours: socket.socket) -> EngineConnection:
        """Take over a connected stream socket."""
        return cls(*await asyncio.open_connection(sock=ours, limit=2 * _READ_BYTES))

    def send(self, message: ToEngine) -> None:
        """Queue a message. When the engine is gone it is lost, as `receive` will tell."""
        self._writer.write(encode_frame(message))

    async def receive(self) -> list[FromEngine] | None:
        """What has arrived, at least one message; None when the engine is gone. May be cancelled without loss."""
        while True:
            try:
                data = await self._reader.read(_READ_BYTES)
            except ConnectionError:
                return None
            if not data:
                return None
            if bodies := self._frames.feed(data):
                return [self._decoder.decode(body) for body in bodies]

    async def aclose(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
