"""Chat over a WebSocket: request objects in, the chunks of SSE out, each tagged with the client's request id."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from litestar.types import Receive, Send, WebSocketScope

from gateway.api.auth import RequestContext, request_context_of
from gateway.api.body import RequestDecoder
from gateway.api.convert import RequestPlan, plan_chat
from gateway.api.disconnect import ClientGone, raise_unless_gone
from gateway.api.encode import chunks_of, socket_frame
from gateway.api.problems import problem_of
from gateway.api.schemas.chat import CancelFrame, EndFrame, Envelope, SocketRequest
from gateway.api.schemas.common import ErrorDetail
from gateway.api.services import Services
from gateway.api.stream import accepted, fold, stream
from gateway.api.unsupported import CHAT
from gateway.errors import BodyTooLarge, Draining, InvalidJson, InvalidRequest

MAX_RUNNING = 32
_GOING_AWAY = 1001
_encode = msgspec.json.Encoder().encode
_envelopes = RequestDecoder(Envelope, {})
_requests = RequestDecoder(SocketRequest, CHAT)
_cancels = RequestDecoder(CancelFrame, {})


class ErrorFrame(msgspec.Struct, frozen=True):
    """An error object with the request it belongs to, if that could be read."""

    error: ErrorDetail
    request_id: str | None


async def converse(services: Services, scope: WebSocketScope, receive: Receive, send: Send) -> None:
    """Accept the socket and serve it until either side ends."""
    if (await receive())["type"] != "websocket.connect":
        return
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
    await WebSocketSession(services, request_context_of(scope), send).run(receive)


class WebSocketSession:
    """One open socket; owner of the tasks of its requests."""

    def __init__(self, services: Services, context: RequestContext, send: Send) -> None:
        self._services = services
        self._visit = context
        self._raw_send = send
        self._running: dict[str, asyncio.Task[None]] = {}
        self._num_taken = 0

    async def run(self, receive: Receive) -> None:
        """Read frames until the client leaves or the server has drained; what still runs is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                closer = tasks.create_task(self._close_when_drained())
                while (message := await receive())["type"] == "websocket.receive":
                    await self._take(message, tasks)
                closer.cancel()
                for task in self._running.values():
                    task.cancel()
        except BaseExceptionGroup as group:
            raise_unless_gone(group)

    async def _take(self, message: Any, tasks: asyncio.TaskGroup) -> None:  # Any: an ASGI message
        """Handle one frame. A bad one gets an error frame; the socket stays open."""
        arrived_s, request_id = time.perf_counter(), None
        try:
            text = self._text(message)
            envelope = _envelopes.decode(text).request
            request_id = envelope.request_id
            if envelope.type == "cancel":
                await self._cancel(_cancels.decode(text).request.request_id)
                return
            request_id = request_id or self._new_id()
            plan = self._plan(text, request_id, arrived_s=arrived_s)
            self._running[request_id] = tasks.create_task(self._serve(plan, request_id))
        except Exception as error:
            await self._send_error(error, request_id)

    def _text(self, message: Any) -> str:  # Any: an ASGI message
        text = message.get("text")
        if not isinstance(text, str):
            raise InvalidJson("frames must be text that holds a JSON object")
        limit = self._services.max_body_bytes
        if len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit:
            raise BodyTooLarge(f"the frame exceeds {limit} bytes; shorten it, or raise server.max_body_bytes")
        return text

    def _plan(self, text: str, request_id: str, *, arrived_s: float) -> RequestPlan:
        if not self._services.drain.accepting():
            raise Draining("the server is shutting down; try again in a moment")
        if request_id in self._running:
            raise InvalidRequest(f"request {request_id!r} is still running; use another id", param="request_id")
        if len(self._running) >= MAX_RUNNING:
            raise InvalidRequest(f"{MAX_RUNNING} requests already run on this socket; wait for one, or open another")
        wire = _requests.decode(text).request
        caller = self._visit.authenticated
        route = self._services.models.route(wire.model, caller.tenant)
        return plan_chat(
            wire,
            route=route,
            caller=caller,
            request_id=self._new_id(),
            room=self._services.limiter.room,
            arrived_s=arrived_s,
            streams_by_default=True,
        )

    def _new_id(self) -> str:
        self._num_taken += 1
        return f"{self._visit.request_id}.{self._num_taken}"

    async def _serve(self, plan: RequestPlan, request_id: str) -> None:
        try:
            with self._services.drain.request():
                await self._answer(plan, request_id)
        except Exception as error:
            await self._send_error(error, request_id)
        finally:
            del self._running[request_id]

    async def _answer(self, plan: RequestPlan, request_id: str) -> None:
        frame = socket_frame(request_id)
        async with accepted(plan, self._services) as generation:
            if plan.is_streamed:
                await stream(generation, chunks_of(plan, frame), self._send)
            else:
                await self._send(frame.opening + (await fold(generation))[1:])
        await self._send(_encode(EndFrame(type="done", request_id=request_id)))

    async def _cancel(self, request_id: str) -> None:
        """Cancel a request and confirm it, once its resources are free."""
        task = self._running.get(request_id)
        if task is None:
            raise InvalidRequest(f"no request {request_id!r} runs on this socket", param="request_id")
        task.cancel()
        await asyncio.wait((task,))
        await self._send(_encode(EndFrame(type="cancelled", request_id=request_id)))

    async def _send_error(self, error: Exception, request_id: str | None) -> None:
        problem = problem_of(error, request_id=self._visit.request_id)
        await self._send(_encode(ErrorFrame(problem.body.error, request_id)))

    async def _send(self, data: bytes) -> None:
        """Send a frame. Raises `ClientGone` if the client reads nothing for too long."""
        try:
            async with asyncio.timeout(self._services.write_timeout_s):
                await self._raw_send({"type": "websocket.send", "text": data.decode(), "bytes": None})
        except TimeoutError:
            raise ClientGone from None

    async def _close_when_drained(self) -> None:
        await self._services.drain.wait_closed()
        while self._running:
            await asyncio.wait(self._running.values())
        await self._raw_send({"type": "websocket.close", "code": _GOING_AWAY, "reason": "the server is shutting down"})
        raise ClientGone
