"""The application (routes behind the authentication middleware), and the HTTP server that runs it.

`gateway.server` imports it late: its libraries take most of a start, and engines load meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, cast

import uvicorn
from litestar import Litestar, Request, Response
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send

from gateway.api.admin.routes import admin_routes
from gateway.api.auth import AuthMiddleware, request_context_of, require_access
from gateway.api.chat import chat_route
from gateway.api.completions import completions_route
from gateway.api.health import document_routes, health_routes
from gateway.api.hosts import hosts_of
from gateway.api.models import model_routes
from gateway.api.problems import problem_of
from gateway.api.schemas.common import ErrorObject
from gateway.api.services import Services
from gateway.config import ServerConfig
from gateway.metrics import Metrics
from gateway.process.drain import Drain
from gateway.process.write_coalescing import CoalescingProtocol
from gateway.routing import Models
from gateway.tenants.auth.wrong_keys import WrongKeys
from gateway.tenants.service import Tenancy

__all__ = ["Gateway", "Services", "create_app"]


def create_app(services: Services) -> Litestar:
    """Build one ASGI application with all routes of `hostelry serve`. Starts and owns nothing."""
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
    """Litestar with the authentication middleware before its router; its own middleware does not see unknown paths."""

    def __init__(self, services: Services, routes: Sequence[ASGIRouteHandler | HTTPRouteHandler]) -> None:
        super().__init__(
            route_handlers=routes,
            guards=[require_access],
            exception_handlers={Exception: _to_response},
            openapi_config=None,
            logging_config=None,
        )
        self._auth = AuthMiddleware(services, self._enter)

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        """Leave out the plugins for pydantic and attrs, which Litestar imports where they are installed (2.25; the
        openai package brings pydantic, a tenth of a second). All our types are msgspec's.
        """
        return [*plugins, MsgspecDIPlugin()]

    async def __call__(
        self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend
    ) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        await self._auth(scope, cast("Receive", receive), cast("Send", send))

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


def _to_response(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorObject]:
    # Any: Litestar's user, auth and state, none of which we use
    problem = problem_of(error, request_id=request_context_of(request.scope).request_id)
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(problem.body, status_code=problem.status, headers=headers, media_type="application/json")


_SHUTDOWN_GRACE_S = 3


def make_services(config: ServerConfig, models: Models, tenancy: Tenancy, drain: Drain) -> Services:
    """Everything that routes need, over an open store."""
    return Services(
        models=models,
        directory=tenancy.directory,
        tenant_admin=tenancy.tenant_admin,
        usage_recorder=tenancy.usage_recorder,
        limiter=tenancy.limiter,
        metrics=Metrics(),
        drain=drain,
        wrong_keys=WrongKeys(per_minute=config.max_wrong_keys_per_minute),
        hosts=hosts_of(config.host, config.allowed_hosts),
        max_body_bytes=config.max_body_bytes,
    )


@contextlib.asynccontextmanager
async def answering(services: Services, listener: socket.socket) -> AsyncGenerator[None]:
    """Serve HTTP on the socket until the block ends."""
    config = uvicorn.Config(
        create_app(services),
        http=CoalescingProtocol,
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # else a client's X-Forwarded-For would count as its address
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the caller decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
