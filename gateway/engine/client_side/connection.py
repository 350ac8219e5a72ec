"""The gateway's end of the socket pair, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import cast

import msgspec

from gateway.engine.messages import FrameBuffer, FromEngine, ToEngine, encode_frame
from gateway.process.write_coalescing import CoalescingTransport

Take = Callable[[FromEngine], None]


class EngineConnection(asyncio.Protocol):
    """Messages to and from one engine. Writes never wait: the engine reads between any two steps."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._frames = FrameBuffer()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._problem: Exception | None = None
        self._has_ended = asyncio.Event()
        self._has_closed = asyncio.Event()

    @classmethod
    async def open(cls, ours: socket.socket, *, take: Take) -> EngineConnection:
        """Take over a connected stream socket.

        `take` gets each message as it arrives, without a task that would have to be woken first. It must not wait;
        what it raises is raised by `ends_within`, and later messages are dropped.
        """
        _, connection = await asyncio.get_running_loop().create_connection(lambda: cls(take), sock=ours)
        return connection

    def send(self, message: ToEngine) -> None:
        """Queue a message. It is lost when the engine is gone, which `ends_within` reports.

        Messages queued in one iteration of the event loop leave in one write: the engine wakes once and finds one
        batch.
        """
        self._transport.write(encode_frame(message))

    async def ends_within(self, seconds: float) -> bool:
        """Wait until the engine is gone, at most `seconds`. True if it is gone.

        Raises what `take` raised, `ValueError` or `msgspec.DecodeError` for an invalid message.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._has_ended.wait()
        if self._problem is not None:
            raise self._problem
        return self._has_ended.is_set()

    async def aclose(self) -> None:
        self._transport.close()
        await self._has_closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = CoalescingTransport(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        if self._problem is not None:
            return
        try:
            for body in self._frames.feed(data):
                self._take(self._decoder.decode(body))
        except Exception as error:  # the event loop would log it and go on; the listener must get it
            self._problem = error
            self._has_ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # it is gone, and its process reports why
        self._has_ended.set()
        self._has_closed.set()
