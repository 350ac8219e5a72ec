"""A WebSocket session: request objects out, tagged chunks in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp

from e2e.harness.wire import Json, delta_text, headers

FRAME_TIMEOUT_S = 30.0


class Conversation:
    """One open socket. Frames are kept in the order they came."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.frames: list[Json] = []

    async def send(self, request_id: str, body: Json) -> None:
        await self._socket.send_str(json.dumps({**body, "request_id": request_id}))

    async def cancel(self, request_id: str) -> None:
        await self._socket.send_str(json.dumps({"type": "cancel", "request_id": request_id}))

    async def send_text(self, text: str) -> None:
        await self._socket.send_str(text)

    async def receive(self) -> Json:
        """The next frame; a closed socket or silence fails the test."""
        message = await self._socket.receive(timeout=FRAME_TIMEOUT_S)
        assert message.type is aiohttp.WSMsgType.TEXT, f"{message.type} {message.data!r} instead of a text frame"
        frame: Json = json.loads(message.data)
        self.frames.append(frame)
        return frame

    async def receive_until_done(self, *request_ids: str) -> None:
        """Read on until each of the requests has ended, well or badly."""
        while not all(map(self.is_finished, request_ids)):
            await self.receive()

    def of(self, request_id: str) -> list[Json]:
        return [frame for frame in self.frames if frame.get("request_id") == request_id]

    def chunks(self, request_id: str) -> list[Json]:
        return [frame for frame in self.of(request_id) if "choices" in frame]

    def text(self, request_id: str) -> str:
        return "".join(map(delta_text, self.chunks(request_id)))

    def is_finished(self, request_id: str) -> bool:
        return any(frame.get("type") == "done" or "error" in frame for frame in self.of(request_id))


@asynccontextmanager
async def conversation(api: str, key: str | None) -> AsyncGenerator[Conversation]:
    url = f"{api}/chat/completions".replace("http://", "ws://")
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers(key)) as socket:
        yield Conversation(socket)


async def handshake_status(api: str, key: str | None) -> int:
    """The HTTP status of an attempt to open a socket; 101 if it opened."""
    try:
        async with asyncio.timeout(10), conversation(api, key):
            return 101
    except aiohttp.WSServerHandshakeError as refused:
        return refused.status
