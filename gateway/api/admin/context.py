"""Shared parts of the admin routes: bodies, changes on behalf of the caller, pages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from litestar import Request
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.api.auth import request_context_of
from gateway.api.body import RequestDecoder, raise_invalid, read_json_body
from gateway.api.services import Services
from gateway.errors import InvalidJson
from gateway.tenants.service import TenantAdmin
from gateway.tenants.store.errors import StoreUnavailable
from gateway.tenants.store.transaction import Actor, Change

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

AnyRequest = Request[Any, Any, Any]  # Any: Litestar's user, auth and state, none of which we use
After = Annotated[str, QueryParameter(max_length=64, description="`id` of the last entry of the previous page")]
Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="Entries per page")]
PAGE = 100


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Page of a list. The next page is requested with `after` set to the id of the last entry."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    deleted: bool = True


class AdminContext:
    """Context of the admin routes, which serve operators."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def body(self, request: AnyRequest, decoder: RequestDecoder[S]) -> S:
        """Decode the body. Raises `InvalidRequest` for a wrong one, also for unknown fields."""
        limit = self._services.max_body_bytes
        return decoder.decode(await read_json_body(request.scope, request.receive, max_bytes=limit)).request

    async def fields(self, request: AnyRequest) -> dict[str, Any]:  # Any: JSON before it is checked
        """The fields of a change. Raises `InvalidJson`."""
        body = await read_json_body(request.scope, request.receive, max_bytes=self._services.max_body_bytes)
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidJson(f"the body must be a JSON object: {error}") from None

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        async with self._tenant_admin().session() as session:
            yield session

    async def drain(self) -> None:
        """Write this gateway's usage to the store, so that reads are complete. Raises `StoreError`."""
        if self._services.usage_recorder is not None:
            await self._services.usage_recorder.drain()

    @asynccontextmanager
    async def change(self, request: AnyRequest) -> AsyncGenerator[Change]:
        """Open a change that the audit log attributes to this caller."""
        context = request_context_of(request.scope)
        async with self._tenant_admin().change(Actor(context.authenticated.key.id, context.request_id)) as change:
            yield change

    def _tenant_admin(self) -> TenantAdmin:
        if self._services.tenant_admin is None:
            raise StoreUnavailable("this server keeps no store")
        return self._services.tenant_admin


def page_of(found: list[T], *, limit: int) -> Page[T]:
    """Page of at most `limit` entries; `found` was queried with `limit + 1`."""
    return Page(data=found[:limit], has_more=len(found) > limit)


def merged(current: S, patch: dict[str, Any]) -> S:
    """`current` with a JSON merge patch (RFC 7396): null takes a field back to its default. Raises `InvalidRequest`."""
    # Any: JSON before it is checked
    try:
        return msgspec.convert(_patched(msgspec.to_builtins(current), patch), type(current))
    except msgspec.ValidationError as error:
        raise_invalid(error)


def _patched(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    result = dict(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            inner = result.get(name)
            result[name] = _patched(inner if isinstance(inner, dict) else {}, value)
        else:
            result[name] = value
    return result
