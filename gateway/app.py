"""The application: routes behind the front door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from litestar import Litestar, Request, Response
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send

from gateway.api.access import require_access
from gateway.api.admin.routes import admin_routes
from gateway.api.chat import chat_route
from gateway.api.completions import completions_route
from gateway.api.documents import document_routes
from gateway.api.door import Door
from gateway.api.health import health_routes
from gateway.api.models import model_routes
from gateway.api.problems import problem_of
from gateway.api.schemas.errors import ErrorObject
from gateway.api.visit import visit_of
from gateway.services import Services

__all__ = ["Gateway", "Services", "create_app"]


def create_app(services: Services) -> Litestar:
    """Everything that `hostelry serve` answers, as one ASGI application. Starts and owns nothing."""
    services.metrics.watch(services.models)
    routes: list[ASGIRouteHandler | HTTPRouteHandler] = [
        chat_route(services),
        completions_route(services),
        *model_routes(services),
        *health_routes(services),
        *document_routes(services),
        *admin_routes(services),
    ]
    return Gateway(services, routes)


class Gateway(Litestar):
    """Litestar with the front door before its router, since its middleware does not see unknown paths."""

    def __init__(self, services: Services, routes: Sequence[ASGIRouteHandler | HTTPRouteHandler]) -> None:
        super().__init__(
            route_handlers=routes,
            guards=[require_access],
            exception_handlers={Exception: _to_response},
            openapi_config=None,
            logging_config=None,
        )
        self._door = Door(services, self._enter)

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        """Leave out those for pydantic and attrs, which Litestar imports where they are installed (2.25; the openai
        package brings pydantic, a tenth of a second). All our types are msgspec's.
        """
        return [*plugins, MsgspecDIPlugin()]

    async def __call__(
        self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend
    ) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        await self._door(scope, cast("Receive", receive), cast("Send", send))

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


def _to_response(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorObject]:
    # Any: Litestar's user, auth and state, none of which we use
    problem = problem_of(error, request_id=visit_of(request.scope).request_id)
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(problem.body, status_code=problem.status, headers=headers, media_type="application/json")
