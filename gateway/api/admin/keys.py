"""`/admin/v1/keys`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from msgspec import Meta

from gateway.api.access import ADMIN_READ, ADMIN_WRITE
from gateway.api.admin.desk import PAGE, After, AnyRequest, Deleted, Desk, Limit, Page, page_of
from gateway.api.decode import RequestDecoder
from gateway.tenants.records import KeyRecord, KeySpec, NewKey
from gateway.tenants.store.keys import create_key, find_key, list_keys, revoke_key, rotate_key

KEYS = "/admin/v1/keys"
_MAX_OVERLAP_S = 30 * 86400


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """How long the old key stays good beside the new one."""

    overlap_s: Annotated[float, Meta(ge=0, le=_MAX_OVERLAP_S)] = 0.0


_keys = RequestDecoder(KeySpec, {})
_rotations = RequestDecoder(Rotation, {})
OfTenant = Annotated[str | None, QueryParameter(max_length=128, description="Name or id of a tenant")]


def key_routes(desk: Desk) -> list[HTTPRouteHandler]:
    @get(KEYS, opt=ADMIN_READ)
    async def keys(tenant: OfTenant = None, after: After = "", limit: Limit = PAGE) -> Page[KeyRecord]:
        async with desk.session() as session:
            return page_of(await list_keys(session, tenant=tenant, after=after, limit=limit + 1), limit=limit)

    @post(KEYS, opt=ADMIN_WRITE)
    async def new_key(request: AnyRequest) -> NewKey:
        spec = await desk.body(request, _keys)
        async with desk.change(request) as change:
            return await create_key(change, spec)

    @get(KEYS + "/{key:str}", opt=ADMIN_READ)
    async def key(key: FromPath[str]) -> KeyRecord:
        async with desk.session() as session:
            return await find_key(session, key)

    @post(KEYS + "/{key:str}/rotate", opt=ADMIN_WRITE)
    async def rotated_key(request: AnyRequest, key: FromPath[str]) -> NewKey:
        rotation = await desk.body(request, _rotations)
        async with desk.change(request) as change:
            return await rotate_key(change, key, overlap_s=rotation.overlap_s)

    @delete(KEYS + "/{key:str}", opt=ADMIN_WRITE, status_code=200)
    async def revoked_key(request: AnyRequest, key: FromPath[str]) -> Deleted:
        async with desk.change(request) as change:
            await revoke_key(change, key)
        return Deleted(id=key)

    return [keys, new_key, key, rotated_key, revoked_key]
