"""Responds to a planned request over HTTP: one JSON body, or Server-Sent Events."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from litestar.types import Receive, Send

from gateway.api.convert import RequestPlan
from gateway.api.disconnect import ClientGone, serve_until_gone
from gateway.api.encode import SSE, chunks_of
from gateway.api.problems import problem_of
from gateway.api.services import Services
from gateway.api.stream import Generation, accepted, fold, stream

Headers = list[tuple[bytes, bytes]]

_KEEP_ALIVE = b": keep-alive\n\n"
_DONE = b"data: [DONE]\n\n"
_SSE_HEADERS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
_encode = msgspec.json.Encoder().encode


class PlannedResponse:
    """HTTP response to one plan. Errors before the first byte are raised, later ones become an error event."""

    def __init__(self, plan: RequestPlan, services: Services, send: Send, *, request_id: str, headers: Headers) -> None:
        self._plan = plan
        self._services = services
        self._send = send
        self._request_id = request_id
        self._headers = headers

    async def give(self, receive: Receive) -> None:
        """Serve until done or until the client is gone, which cancels the request at once."""
        await serve_until_gone(receive, self._stream if self._plan.is_streamed else self._whole)

    async def _whole(self, tasks: asyncio.TaskGroup) -> None:
        del tasks  # a single body needs no keep-alive
        async with accepted(self._plan, self._services) as generation:
            body = await fold(generation)
        length = (b"content-length", str(len(body)).encode())
        await self._start([(b"content-type", b"application/json"), length])
        await self._send(_body(body, more=False))

    async def _stream(self, tasks: asyncio.TaskGroup) -> None:
        is_open = False
        try:
            async with accepted(self._plan, self._services) as generation:
                await self._start(_SSE_HEADERS)
                is_open = True
                await self._chunks(generation, tasks)
            ending = _DONE
        except Exception as error:
            if not is_open:
                raise
            ending = b"data: " + _encode(problem_of(error, request_id=self._request_id).body) + b"\n\n"
        await self._send(_body(ending, more=False))

    async def _chunks(self, generation: Generation, tasks: asyncio.TaskGroup) -> None:
        services = self._services
        events = EventStream(self._send, keep_alive_s=services.keep_alive_s, write_timeout_s=services.write_timeout_s)
        keeper = tasks.create_task(events.keep_alive())
        try:
            await stream(generation, chunks_of(self._plan, SSE), events.write)
        finally:
            keeper.cancel()

    async def _start(self, headers: Headers) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers + self._headers})


class EventStream:
    """Writes SSE events, sends keep-alive comments when idle, and detects clients that stopped reading."""

    def __init__(self, send: Send, *, keep_alive_s: float, write_timeout_s: float) -> None:
        self._send = send
        self._keep_alive_s = keep_alive_s
        self._write_timeout_s = write_timeout_s
        self._written_at = time.monotonic()
        self._is_writing = False

    async def write(self, data: bytes) -> None:
        self._is_writing = True
        await self._send(_body(data, more=True))
        self._is_writing = False
        self._written_at = time.monotonic()

    async def keep_alive(self) -> None:
        """Run concurrently with the writer. Raises `ClientGone` when a write does not end."""
        while True:
            limit_s = self._write_timeout_s if self._is_writing else self._keep_alive_s
            silent_s = time.monotonic() - self._written_at
            if silent_s < limit_s:
                await asyncio.sleep(limit_s - silent_s)
            elif self._is_writing:
                raise ClientGone
            else:
                await self._write_comment()

    async def _write_comment(self) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self.write(_KEEP_ALIVE)
        except TimeoutError:
            raise ClientGone from None


def _body(data: bytes, *, more: bool) -> Any:  # Any: ASGI's messages are plain dicts, typed too narrowly for us
    return {"type": "http.response.body", "body": data, "more_body": more}
