"""Gateways without a model: `constant` recites, `echo` repeats the question, `health-only` is always well."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import WSMsgType, web

from e2e.harness.wire import Json
from e2e.liars.tenants import Tenant, Tenants

LIES = ("constant", "echo", "health-only")
RECITED = "The capital of France is Paris."
STEP_S = 0.003

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(lie: str, tenants: Tenants, served: list[str]) -> web.Application:
    app = web.Application(middlewares=[_request_id])
    app.router.add_get("/health/live", _well)
    app.router.add_get("/health/ready", _well)
    if lie == "health-only":
        return app
    impostor = Impostor(lie, tenants, served)
    app.router.add_get("/metrics", impostor.metrics)
    app.router.add_get("/admin/v1/usage", impostor.sums)
    app.router.add_get("/v1/models", impostor.list_models)
    app.router.add_get("/v1/models/{name}", impostor.show_model)
    app.router.add_post("/v1/chat/completions", impostor.complete)
    app.router.add_post("/v1/completions", impostor.complete)
    app.router.add_get("/v1/chat/completions", impostor.converse)
    return app


class Impostor:
    """Good manners, no knowledge."""

    def __init__(self, lie: str, tenants: Tenants, served: list[str]) -> None:
        self._lie = lie
        self._tenants = tenants
        self._served = served
        self._counted: dict[tuple[str, str, str], int] = {}

    async def list_models(self, request: web.Request) -> web.Response:
        tenant = self._tenants.of(request)
        if tenant is None:
            return refusal(401, "no valid key", "invalid_api_key")
        return web.json_response({"object": "list", "data": [_model(name) for name in self._visible(tenant)]})

    async def show_model(self, request: web.Request) -> web.Response:
        tenant, name = self._tenants.of(request), request.match_info["name"]
        if tenant is None:
            return refusal(401, "no valid key", "invalid_api_key")
        if name not in self._visible(tenant):
            return refusal(404, f"model {name!r} does not exist", "model_not_found")
        return web.json_response(_model(name))

    async def metrics(self, _: web.Request) -> web.Response:
        lines = ["hostelry_engine_running 0", "hostelry_engine_waiting 0"]
        for (name, model, tenant), value in self._counted.items():
            lines.append(f'hostelry_{name}_total{{model="{model}",tenant="{tenant}"}} {value}')
        return web.Response(text="\n".join(lines) + "\n")

    async def sums(self, _: web.Request) -> web.Response:
        """The operator's books, which agree with the metrics."""
        groups = {(model, tenant) for _, model, tenant in self._counted}
        names = ("requests", "prompt_tokens", "completion_tokens")
        data = [
            {"model": model, "tenant_name": tenant} | {name: self._counted[name, model, tenant] for name in names}
            for model, tenant in sorted(groups)
        ]
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        tenant, body = self._tenants.of(request), await request.json()
        if tenant is None:
            return refusal(401, "no valid key", "invalid_api_key")
        if body["model"] not in self._visible(tenant):
            return refusal(404, f"model {body['model']!r} does not exist", "model_not_found")
        answer = self._answer(body, tenant)
        if not body.get("stream"):
            return web.json_response(answer)
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
        response.content_type, response.charset = "text/event-stream", "utf-8"
        response.headers["x-request-id"] = uuid.uuid4().hex
        await response.prepare(request)
        for chunk in chunks(answer, body):
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await asyncio.sleep(STEP_S)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def converse(self, request: web.Request) -> web.StreamResponse:
        tenant = self._tenants.of(request)
        if tenant is None:
            return refusal(401, "no valid key", "invalid_api_key")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await self._reply(socket, message.data, tenant)
        return socket

    async def _reply(self, socket: web.WebSocketResponse, text: str, tenant: Tenant) -> None:
        try:
            body = json.loads(text)
        except ValueError:
            await socket.send_json({"error": _error("not JSON", "invalid_json"), "request_id": None})
            return
        tag = {"request_id": body.get("request_id")}
        if body.get("model") not in self._visible(tenant):
            await socket.send_json({"error": _error("no such model", "model_not_found"), **tag})
            return
        for chunk in chunks(self._answer(body, tenant), body):
            await socket.send_json({**chunk, **tag})
        await socket.send_json({"type": "done", **tag})

    def _visible(self, tenant: Tenant) -> list[str]:
        return [name for name in self._served if not tenant.models or name in tenant.models]

    def _answer(self, body: Json, tenant: Tenant) -> Json:
        pieces = re.findall(r"\s*\S+?(?=\s|[.,?!]|$)|[.,?!]", RECITED if self._lie == "constant" else _question(body))
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 1000
        kept = pieces[:limit]
        usage = {"prompt_tokens": len(_question(body).split()) + 8, "completion_tokens": len(kept)}
        for name, value in usage.items():
            self._count(name, body["model"], tenant.name, value)
        self._count("requests", body["model"], tenant.name, 1)
        usage["total_tokens"] = sum(usage.values())
        reason = "stop" if len(kept) == len(pieces) else "length"
        return whole_answer(body, kept, reason, usage)

    def _count(self, name: str, model: str, tenant: str, value: int) -> None:
        key = (name, model, tenant)
        self._counted[key] = self._counted.get(key, 0) + value


def whole_answer(body: Json, pieces: list[str], reason: str, usage: Json) -> Json:
    """A chat or text completion with made-up log-probabilities, one piece a token."""
    text = "".join(pieces)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body["model"], "usage": usage}
    choice: Json = {"index": 0, "finish_reason": reason}
    if "messages" not in body:
        logprobs = {"tokens": pieces, "token_logprobs": [-0.1] * len(pieces)}
        return {**head, "object": "text_completion", "choices": [{**choice, "text": text, "logprobs": logprobs}]}
    listed = [{"token": piece, "logprob": -0.1, "bytes": list(piece.encode()), "top_logprobs": []} for piece in pieces]
    message = {"role": "assistant", "content": text}
    choice |= {"message": message, "logprobs": {"content": listed} if body.get("logprobs") else None}
    return {**head, "object": "chat.completion", "choices": [choice]}


def chunks(answer: Json, body: Json) -> Iterator[Json]:
    """A whole answer cut into stream chunks, a character each."""
    (choice,) = answer["choices"]
    chat = "message" in choice
    head = {name: answer[name] for name in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    text = choice["message"]["content"] if chat else choice["text"]
    if chat:
        yield {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    for piece in text:
        delta = {"delta": {"content": piece}} if chat else {"text": piece}
        yield {**head, "choices": [{"index": 0, **delta, "finish_reason": None}]}
    delta = {"delta": {}} if chat else {"text": ""}
    yield {**head, "choices": [{"index": 0, **delta, "finish_reason": choice["finish_reason"]}]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": answer["usage"]}


def refusal(status: int, message: str, code: str) -> web.Response:
    return web.json_response({"error": _error(message, code)}, status=status)


def _error(message: str, code: str) -> Json:
    return {"message": message, "type": "invalid_request_error", "param": None, "code": code}


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "liar"}


def _question(body: Json) -> str:
    if "messages" not in body:
        return str(body.get("prompt", ""))
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


async def _well(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


@web.middleware
async def _request_id(request: web.Request, handler: Answer) -> web.StreamResponse:
    response = await handler(request)
    if not response.prepared:
        response.headers["x-request-id"] = uuid.uuid4().hex
    return response
