"""A pass-through before an honest server that tells one lie.

none            tells the truth: the control that shows a proxy alone is not rejected
chunker         computes the whole answer, then cuts it into chunks
usage           makes up the counters in `usage`
ledger          tells the operator of twice as many generated tokens as the tenants
frozen-metrics  shows the metrics of its first minute for ever
always-stop     every answer claims to have ended by itself
no-stop         ignores `stop`
no-seed         ignores `seed`
open-door       lets anybody in, with somebody else's key
lock            one request at a time
deaf-socket     never hears `cancel`
boastful        its engine's counters tell of batches twice as full
cache-claims    says of every prompt that it was cached, which it was not
one-guest       all tenants are one to it, and so is what was computed for them
first-come      lets four requests in at a time, whoever came first, and says that it is fair
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AbstractAsyncContextManager, nullcontext

import aiohttp
from aiohttp import WSMsgType, web

from e2e.harness.crowd import FEW
from e2e.harness.running_server import KEYS
from e2e.harness.wire import Json
from e2e.liars.impostor import STEP_S, chunks
from e2e.liars.tenants import Tenants

LIES = (
    "none",
    "chunker",
    "usage",
    "ledger",
    "frozen-metrics",
    "always-stop",
    "no-stop",
    "no-seed",
    "open-door",
    "lock",
    "deaf-socket",
    "boastful",
    "cache-claims",
    "one-guest",
    "first-come",
)
BATCHING_LIES = ("lock", "chunker", "boastful", "cache-claims", "one-guest", "first-come")
"""Lies that the batching suite must reject."""
INVENTED_USAGE = {"prompt_tokens": 16, "completion_tokens": 8, "total_tokens": 24}
_BOOKS = "/admin/v1/usage"
_ABOUT_ANSWERS = ("usage", "always-stop", "cache-claims")
_FULLER = re.compile(rb"(hostelry_engine_batched_sequences_total\{[^}]*\} )(\S+)")
_GENERATED = re.compile(rb'("completion_tokens":)(\d+)')
_HOP_BY_HOP = {"transfer-encoding", "content-length", "connection", "date", "server"}


def application(lie: str, tenants: Tenants, upstream: str) -> web.Application:
    app = web.Application(client_max_size=2**26)
    liar = Proxy(lie, tenants, upstream)
    app.cleanup_ctx.append(liar.session_context)
    app.router.add_get("/v1/chat/completions", liar.converse)
    app.router.add_route("*", "/{path:.*}", liar.forward)
    return app


class Proxy:
    def __init__(self, lie: str, tenants: Tenants, upstream: str) -> None:
        self._lie = lie
        self._tenants = tenants
        self._upstream = upstream
        self._gate = _gate(lie)
        self._first_metrics: bytes | None = None
        self._session: aiohttp.ClientSession

    async def session_context(self, _: web.Application):  # type: ignore[no-untyped-def]  # aiohttp's own name is private
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            self._session = session
            yield

    async def forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with self._gate if request.method == "POST" else nullcontext():
            if self._lie == "chunker" and _wants_stream(body) and self._tenants.of(request):
                return await self._chunk_afterwards(request, json.loads(body))
            return await self._pass_on(request, self._changed_request(body))

    async def _pass_on(self, request: web.Request, body: bytes) -> web.StreamResponse:
        url = self._upstream + request.path_qs
        async with self._session.request(request.method, url, data=body, headers=self._headers(request)) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            if answer.content_type == "text/event-stream":
                return await self._pass_stream(request, answer, kept)
            text = self._changed_answer(request.path, await answer.read())
            return web.Response(status=answer.status, body=text, headers=kept)

    async def _pass_stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        async for line in answer.content:
            await response.write(self._changed_line(line))
        return response

    async def _chunk_afterwards(self, request: web.Request, body: Json) -> web.StreamResponse:
        asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        url = self._upstream + request.path_qs
        async with self._session.post(url, json=asked, headers=self._headers(request)) as answer:
            whole = await answer.json()
            if answer.status != 200:
                return web.json_response(whole, status=answer.status)
            request_id = answer.headers.get("x-request-id", "none")
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no", "x-request-id": request_id})
        response.content_type, response.charset = "text/event-stream", "utf-8"
        await response.prepare(request)
        for chunk in chunks(whole, body):
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await asyncio.sleep(STEP_S)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def converse(self, request: web.Request) -> web.StreamResponse:
        """Bridge a WebSocket, frame by frame."""
        url = self._upstream + request.path_qs
        try:
            upstream = await self._session.ws_connect(url, headers=self._headers(request))
        except aiohttp.WSServerHandshakeError as refused:
            return web.Response(status=refused.status)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        back = asyncio.create_task(_copy_back(upstream, socket))
        async for message in socket:
            if message.type is WSMsgType.TEXT and not (self._lie == "deaf-socket" and '"cancel"' in message.data):
                await upstream.send_str(message.data)
        back.cancel()
        await upstream.close()
        return socket

    def _headers(self, request: web.Request) -> dict[str, str]:
        names = ("Authorization", "Content-Type")
        kept = {name: request.headers[name] for name in names if name in request.headers}
        if self._lie == "open-door" and self._tenants.of(request) is None:
            kept["Authorization"] = f"Bearer {KEYS.acme}"
        if self._lie == "one-guest" and self._tenants.of(request) is not None:
            kept["Authorization"] = f"Bearer {KEYS.acme}"
        return kept

    def _changed_request(self, body: bytes) -> bytes:
        dropped = {"no-stop": "stop", "no-seed": "seed"}.get(self._lie)
        if dropped is None or not body:
            return body
        return json.dumps({name: value for name, value in json.loads(body).items() if name != dropped}).encode()

    def _changed_answer(self, path: str, body: bytes) -> bytes:
        if self._lie == "frozen-metrics" and path == "/metrics":
            self._first_metrics = self._first_metrics or body
            return self._first_metrics
        if self._lie == "boastful" and path == "/metrics":
            return _FULLER.sub(lambda found: found[1] + str(2 * float(found[2])).encode(), body)
        if self._lie == "ledger" and path.startswith(_BOOKS):
            return _GENERATED.sub(lambda found: found[1] + str(2 * int(found[2])).encode(), body)
        if self._lie not in _ABOUT_ANSWERS or not body.startswith(b"{"):
            return body
        return json.dumps(self._changed_object(json.loads(body))).encode()

    def _changed_line(self, line: bytes) -> bytes:
        if self._lie not in _ABOUT_ANSWERS or not line.startswith(b"data: {"):
            return line
        return b"data: " + json.dumps(self._changed_object(json.loads(line[6:]))).encode() + b"\n"

    def _changed_object(self, answer: Json) -> Json:
        if self._lie == "usage" and answer.get("usage"):
            answer["usage"] = INVENTED_USAGE
        if self._lie == "cache-claims" and (usage := answer.get("usage")):
            usage["prompt_tokens_details"]["cached_tokens"] = usage["prompt_tokens"] * 9 // 10
        for choice in answer.get("choices", ()):
            if self._lie == "always-stop" and choice.get("finish_reason"):
                choice["finish_reason"] = "stop"
        return answer


def _gate(lie: str) -> AbstractAsyncContextManager[None]:
    """Limit that a request passes on its way in."""
    if lie == "lock":
        return asyncio.Lock()
    return asyncio.Semaphore(FEW) if lie == "first-come" else nullcontext()


async def _copy_back(upstream: aiohttp.ClientWebSocketResponse, socket: web.WebSocketResponse) -> None:
    async for message in upstream:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)


def _wants_stream(body: bytes) -> bool:
    try:
        return bool(json.loads(body).get("stream"))
    except (ValueError, AttributeError):
        return False
