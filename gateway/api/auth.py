"""Authentication middleware: request ids, host and key checks before routing, and each route's required scope.

The scope is checked after the router's own match, so the route that is guarded is the route that responds.

The path is checked as the client sent it (`scope["path"]`); no URL is ever built from the Host header.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import Any, Final, cast

import msgspec
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler, BaseRouteHandler
from litestar.types import Receive, Scope, Send

from gateway.api.body import discard_body
from gateway.api.disconnect import ClientGone
from gateway.api.problems import Problem, problem_of
from gateway.api.services import Services
from gateway.errors import Draining, PermissionDenied, Unauthorized
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.policy import Caller

_KEY = "hostelry.request_context"


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """Context of one HTTP request or WebSocket.

    `caller` is None on public paths only; `start` is a time of `time.perf_counter`.
    """

    request_id: str
    caller: Caller | None
    start: float = msgspec.field(default_factory=time.perf_counter)

    @property
    def authenticated(self) -> Caller:
        """Authenticated caller, on routes that require a key."""
        assert self.caller is not None, "a guarded route was reached without a key"
        return self.caller


def set_request_context(scope: Mapping[str, Any], context: RequestContext) -> None:  # Any: ASGI's own type
    assert isinstance(scope, dict)
    scope[_KEY] = context


def request_context_of(scope: Mapping[str, Any]) -> RequestContext:  # Any: ASGI's own type
    context = scope[_KEY]
    assert isinstance(context, RequestContext)
    return context


PUBLIC: Final = {"access": "public"}
LOCAL: Final = {"access": "local"}
"""Public for clients on this machine, else for operators only."""
INFERENCE: Final = {"access": "inference"}
ADMIN_READ: Final = {"access": "admin:read"}
ADMIN_WRITE: Final = {"access": "admin:write"}


async def require_access(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Guard of every route. Raises `PermissionDenied`.

    It awaits nothing; Litestar would call a plain function in a thread, which costs more than the rest of its work.
    """
    # Any: Litestar's user, auth and state, none of which we use
    access = handler.opt.get("access")
    caller = request_context_of(connection.scope).caller
    if access is None and connection.scope.get("method") == "OPTIONS":
        return  # Litestar's own response, which lists the methods of a path
    if access == "public" or (access == "local" and caller is None):
        return  # without a key, only local clients pass the middleware
    needed = "admin:read" if access == "local" else access
    if caller is None or needed not in caller.key.scopes:
        raise PermissionDenied(f"this key lacks the scope {needed}; use one that has it")


class asgi(ASGIRouteHandler):
    """Raw route whose guards see the handler itself: Litestar copies it for each of them at each request."""

    __slots__ = ()

    async def authorize_connection(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        for guard in self.resolve_guards():
            # Litestar has made all of them async
            await guard(connection, self)  # type: ignore[misc]  # ty: ignore[invalid-await]  # see above


PUBLIC_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/openapi.json"})
LOCAL_PATHS = frozenset({"/metrics"})
"""Paths that are public for clients on this machine that are not behind a proxy."""

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_SANE_ID = re.compile(rb"[\w-]{1,128}")
_FORWARDING = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})
_encode = msgspec.json.Encoder().encode


class AuthMiddleware:
    """ASGI middleware in front of the application. `application` is called with a `RequestContext` in its scope."""

    def __init__(self, services: Services, application: Application) -> None:
        self._services = services
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        reply = ResponseSender(send, request_id, self._services.limiter)
        try:
            context = RequestContext(request_id=request_id, caller=self._admit(scope), start=reply.start)
            reply.caller = context.caller
        except Exception as error:
            await _refuse(scope, receive, reply, problem_of(error, request_id=request_id))
            return
        set_request_context(scope, context)
        await self._enter(scope, receive, reply)

    def _admit(self, scope: Scope) -> Caller | None:
        """Caller of the request, or None on a public path.

        Raises `HostNotAllowed`, `OriginNotAllowed`, `Unauthorized`, `TooManyWrongKeys`, `TenantDisabled` or `Draining`.
        """
        self._services.hosts.check(scope["headers"])
        if self._is_public(scope):
            return None
        caller = self._authenticate(scope)
        if not self._services.drain.accepting():
            raise Draining("the server is shutting down; try again in a moment")
        return caller

    def _authenticate(self, scope: Scope) -> Caller:
        """Authenticate by key. A request without a key guesses none, and is not counted as a wrong key."""
        authorization = [value for name, value in scope["headers"] if name == b"authorization"]
        try:
            return self._services.directory.authenticate(authorization)
        except Unauthorized:
            client = scope.get("client")
            if authorization:
                self._services.wrong_keys.note(client[0] if client else None)
            raise

    def _is_public(self, scope: Scope) -> bool:
        if scope["type"] != ScopeType.HTTP:
            return False
        path = scope["path"]
        return path in PUBLIC_PATHS or (path in LOCAL_PATHS and self._is_local(scope))

    def _is_local(self, scope: Scope) -> bool:
        """True for a program on this machine, but not for a web page that reaches it through its own host name."""
        return _comes_from_here(scope) and self._services.hosts.are_local(scope["headers"])

    async def _enter(self, scope: Scope, receive: Receive, reply: ResponseSender) -> None:
        try:
            if scope["type"] == ScopeType.HTTP:
                with self._services.drain.request():
                    await self._application(scope, receive, reply.send)
            else:
                await self._application(scope, receive, reply.send)
        except ClientGone:
            return
        except Exception as error:
            if reply.is_started:
                raise
            await send_problem(scope, reply.send, problem_of(error, request_id=reply.request_id))


class ResponseSender:
    """Adds the headers that every response has to its first message."""

    def __init__(self, send: Send, request_id: str, limiter: Limiter) -> None:
        self._send = send
        self._limiter = limiter
        self.request_id = request_id
        self.caller: Caller | None = None
        self.start = time.perf_counter()
        self.is_started = False

    async def send(self, message: Any) -> None:  # Any: one of ASGI's many messages
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
            self.is_started = True
            message["headers"] = [*message.get("headers", ()), *self._headers(kind)]
        try:
            await self._send(message)
        except OSError:  # ASGI 2.4: what a server raises when the client has gone
            raise ClientGone from None

    def _headers(self, kind: str) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", self.request_id.encode())]
        if kind == "websocket.accept":
            return headers
        elapsed_ms = round(1000 * (time.perf_counter() - self.start))
        return [
            *headers,
            (b"openai-processing-ms", str(elapsed_ms).encode()),
            (b"cache-control", b"no-store"),
            *(self._limiter.headers(self.caller) if self.caller else ()),
        ]


async def send_problem(scope: Scope, send: Send, problem: Problem) -> None:
    """Respond with an error object; a WebSocket is rejected the same way before it was accepted, else closed."""
    body = _encode(problem.body)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *problem.headers,
    ]
    prefix = ""
    if scope["type"] == ScopeType.WEBSOCKET:
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        prefix = "websocket."
    await send(cast(Any, {"type": f"{prefix}http.response.start", "status": problem.status, "headers": headers}))
    await send(cast(Any, {"type": f"{prefix}http.response.body", "body": body, "more_body": False}))


async def _refuse(scope: Scope, receive: Receive, reply: ResponseSender, problem: Problem) -> None:
    if scope["type"] == ScopeType.HTTP and scope["method"] in ("POST", "PUT", "PATCH"):
        await discard_body(receive)
    await send_problem(scope, reply.send, problem)


def _comes_from_here(scope: Scope) -> bool:
    client = scope.get("client")
    if client is None or any(name in _FORWARDING for name, _ in scope["headers"]):
        return False
    try:
        return ip_address(client[0]).is_loopback
    except ValueError:
        return False


def _request_id(scope: Scope) -> str:
    """Client's own request id if it is valid, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return value.decode("ascii")
    return f"req_{secrets.token_hex(12)}"
