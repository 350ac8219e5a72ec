"""Who may use which route: each one names what it takes, and one that names nothing takes nobody.

It is asked behind the router's own match, so the route that is guarded is the route that answers.
"""

from __future__ import annotations

from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers import ASGIRouteHandler, BaseRouteHandler

from gateway.api.visit import visit_of
from gateway.errors import PermissionDenied

PUBLIC: Final = {"access": "public"}
LOCAL: Final = {"access": "local"}
"""Public to a client on this machine, else for operators."""
INFERENCE: Final = {"access": "inference"}
ADMIN_READ: Final = {"access": "admin:read"}
ADMIN_WRITE: Final = {"access": "admin:write"}


async def require_access(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """A guard for every route. Raises `PermissionDenied`.

    It awaits nothing; Litestar would ask a plain function in a thread, which costs more than the rest of its work.
    """
    # Any: Litestar's user, auth and state, none of which we use
    access = handler.opt.get("access")
    caller = visit_of(connection.scope).caller
    if access is None and connection.scope.get("method") == "OPTIONS":
        return  # Litestar's own answer, which tells the methods of a path
    if access == "public" or (access == "local" and caller is None):
        return  # without a key the door lets in local clients only
    needed = "admin:read" if access == "local" else access
    if caller is None or needed not in caller.key.scopes:
        raise PermissionDenied(f"this key lacks the scope {needed}; use one that has it")


class asgi(ASGIRouteHandler):
    """A raw route whose guards see the handler itself: Litestar makes a copy of it for each of them at each request."""

    __slots__ = ()

    async def authorize_connection(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        for guard in self.resolve_guards():
            # Litestar has made all of them async
            await guard(connection, self)  # type: ignore[misc]  # ty: ignore[invalid-await]  # see above
