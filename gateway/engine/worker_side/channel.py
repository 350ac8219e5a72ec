"""The engine's end of the socket pair: blocking sends, receives that wait or do not."""

from __future__ import annotations

import socket

import msgspec

from gateway.engine.messages import FrameBuffer, FromEngine, ToEngine, encode_frame

_READ_BYTES = 64 * 1024
"""Below what malloc takes from the system, and gives back to it, for each single read: 128 KiB in glibc."""


class GatewayGone(Exception):
    """The other end is closed: nobody is left to work for."""


class Channel:
    """Messages over a connected stream socket, which it owns."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection
        self._frames = FrameBuffer()
        self._decoder = msgspec.msgpack.Decoder(ToEngine)

    def send(self, message: FromEngine) -> None:
        """Waits while the gateway does not read: it must not fall behind without end. Raises `GatewayGone`."""
        try:
            self._connection.sendall(encode_frame(message))
        except OSError as error:
            raise GatewayGone from error

    def wait(self) -> list[ToEngine]:
        """Block until something arrives; may be empty when only half a message did. Raises `GatewayGone`."""
        try:
            return self._messages(self._connection.recv(_READ_BYTES))
        except OSError as error:
            raise GatewayGone from error

    def drain(self) -> list[ToEngine]:
        """Everything that has arrived by now, without blocking. Raises `GatewayGone`."""
        messages: list[ToEngine] = []
        while True:
            try:
                messages += self._messages(self._connection.recv(_READ_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return messages
            except OSError as error:
                raise GatewayGone from error

    def close(self) -> None:
        self._connection.close()

    def _messages(self, data: bytes) -> list[ToEngine]:
        if not data:
            raise GatewayGone
        return [self._decoder.decode(body) for body in self._frames.feed(data)]
