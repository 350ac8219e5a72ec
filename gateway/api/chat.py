"""Routes of `/v1/chat/completions`, POST and WebSocket."""

from __future__ import annotations

from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from gateway.api.auth import INFERENCE, asgi, request_context_of
from gateway.api.body import RequestDecoder, ignored_header, read_json_body
from gateway.api.convert import plan_chat
from gateway.api.responses import PlannedResponse
from gateway.api.schemas.chat import ChatCompletionRequest
from gateway.api.services import Services
from gateway.api.unsupported import CHAT
from gateway.api.websocket import converse
from gateway.errors import MethodNotAllowed

PATH = "/v1/chat/completions"
_decoder = RequestDecoder(ChatCompletionRequest, CHAT)


def chat_route(services: Services) -> ASGIRouteHandler:
    @asgi(PATH, copy_scope=False, opt=INFERENCE)
    async def chat(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            await converse(services, scope, receive, send)
        elif scope["method"] == "POST":
            await _post(services, scope, receive, send)
        else:
            raise MethodNotAllowed("POST")

    return chat


async def _post(services: Services, scope: HTTPScope, receive: Receive, send: Send) -> None:
    context = request_context_of(scope)
    body = await read_json_body(scope, receive, max_bytes=services.max_body_bytes)
    decoded = _decoder.decode(body)
    route = services.models.route(decoded.request.model, context.authenticated.tenant)
    plan = plan_chat(
        decoded.request,
        route=route,
        caller=context.authenticated,
        request_id=context.request_id,
        room=services.limiter.room,
        arrived_s=context.start,
    )
    headers = ignored_header(decoded)
    await PlannedResponse(plan, services, send, request_id=context.request_id, headers=headers).give(receive)
