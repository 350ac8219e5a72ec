"""Route of `/v1/completions`."""

from __future__ import annotations

from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from gateway.api.auth import INFERENCE, asgi, request_context_of, send_problem
from gateway.api.body import RequestDecoder, ignored_header, read_json_body
from gateway.api.convert import plan_completion
from gateway.api.problems import problem_of
from gateway.api.responses import PlannedResponse
from gateway.api.schemas.completions import CompletionRequest
from gateway.api.services import Services
from gateway.api.unsupported import COMPLETIONS
from gateway.errors import MethodNotAllowed, NotFound

PATH = "/v1/completions"
_decoder = RequestDecoder(CompletionRequest, COMPLETIONS)


def completions_route(services: Services) -> ASGIRouteHandler:
    @asgi(PATH, copy_scope=False, opt=INFERENCE)
    async def completions(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            error = NotFound("this path takes no WebSocket; /v1/chat/completions does")
            await send_problem(scope, send, problem_of(error, request_id=request_context_of(scope).request_id))
            return
        if scope["method"] != "POST":
            raise MethodNotAllowed("POST")
        await _post(services, scope, receive, send)

    return completions


async def _post(services: Services, scope: HTTPScope, receive: Receive, send: Send) -> None:
    context = request_context_of(scope)
    body = await read_json_body(scope, receive, max_bytes=services.max_body_bytes)
    decoded = _decoder.decode(body)
    route = services.models.route(decoded.request.model, context.authenticated.tenant)
    plan = plan_completion(
        decoded.request,
        route=route,
        caller=context.authenticated,
        request_id=context.request_id,
        arrived_s=context.start,
    )
    headers = ignored_header(decoded)
    await PlannedResponse(plan, services, send, request_id=context.request_id, headers=headers).give(receive)
