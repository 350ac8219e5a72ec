"""Routes of `/admin/v1/tenants`, `/admin/v1/organisations` and `/admin/v1/keys`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from msgspec import Meta

from gateway.api.admin.context import PAGE, AdminContext, After, AnyRequest, Deleted, Limit, Page, merged, page_of
from gateway.api.admin.description import (
    DELETED,
    KEY,
    NEW_KEY,
    ORGANISATION,
    TENANT,
    Description,
    described,
    page_example,
)
from gateway.api.auth import ADMIN_READ, ADMIN_WRITE
from gateway.api.body import RequestDecoder
from gateway.tenants.records import (
    KeyRecord,
    KeySpec,
    NewKey,
    OrganisationRecord,
    OrganisationSpec,
    TenantRecord,
    TenantSpec,
)
from gateway.tenants.store.keys import create_key, find_key, list_keys, revoke_key, rotate_key
from gateway.tenants.store.tenants import (
    create_organisation,
    create_tenant,
    delete_tenant,
    find_tenant,
    list_organisations,
    list_tenants,
    spec_of,
    tenant_record,
    update_tenant,
)

ORGANISATIONS, TENANTS = "/admin/v1/organisations", "/admin/v1/tenants"
_organisations = RequestDecoder(OrganisationSpec, {})
_tenants = RequestDecoder(TenantSpec, {})


def tenant_routes(context: AdminContext) -> list[HTTPRouteHandler]:
    @get(
        ORGANISATIONS,
        opt=described(ADMIN_READ, Description(answer=page_example(ORGANISATION), problems=(400,))),
        operation_id="listOrganisations",
        summary="Organisations",
    )
    async def organisations(after: After = "", limit: Limit = PAGE) -> Page[OrganisationRecord]:
        async with context.session() as session:
            return page_of(await list_organisations(session, after=after, limit=limit + 1), limit=limit)

    @post(
        ORGANISATIONS,
        opt=described(
            ADMIN_WRITE,
            Description(request=OrganisationSpec, example={"name": "Acme"}, answer=ORGANISATION, problems=(409,)),
        ),
        operation_id="createOrganisation",
        summary="Create an organisation",
    )
    async def new_organisation(request: AnyRequest) -> OrganisationRecord:
        spec = await context.body(request, _organisations)
        async with context.change(request) as change:
            return await create_organisation(change, spec.name)

    @get(
        TENANTS,
        opt=described(ADMIN_READ, Description(answer=page_example(TENANT), problems=(400,))),
        operation_id="listTenants",
        summary="Tenants in the order of creation",
    )
    async def tenants(after: After = "", limit: Limit = PAGE) -> Page[TenantRecord]:
        async with context.session() as session:
            return page_of(await list_tenants(session, after=after, limit=limit + 1), limit=limit)

    @post(
        TENANTS,
        opt=described(
            ADMIN_WRITE,
            Description(
                request=TenantSpec,
                example={"name": "acme", "limits": {"requests_per_minute": 60}, "max_output_tokens": 2000},
                answer=TENANT,
                problems=(409,),
            ),
        ),
        operation_id="createTenant",
        summary="Create a tenant",
    )
    async def new_tenant(request: AnyRequest) -> TenantRecord:
        spec = await context.body(request, _tenants)
        async with context.change(request) as change:
            return await create_tenant(change, spec)

    @get(
        TENANTS + "/{tenant:str}",
        opt=described(ADMIN_READ, Description(answer=TENANT, problems=(404,))),
        operation_id="retrieveTenant",
        summary="One tenant, by name or id",
    )
    async def tenant(tenant: FromPath[str]) -> TenantRecord:
        async with context.session() as session:
            return await tenant_record(session, await find_tenant(session, tenant))

    @patch(
        TENANTS + "/{tenant:str}",
        opt=described(
            ADMIN_WRITE,
            Description(
                request=TenantSpec,
                example={"max_output_tokens": 3, "limits": {"requests_per_minute": None}},
                answer=TENANT,
                problems=(409,),
            ),
        ),
        operation_id="updateTenant",
        summary="Change a tenant",
        description="A JSON merge patch: omitted fields keep their values, null resets a field to its default.",
    )
    async def changed_tenant(request: AnyRequest, tenant: FromPath[str]) -> TenantRecord:
        given = await context.fields(request)
        async with context.change(request) as change:
            current = await tenant_record(change.session, await find_tenant(change.session, tenant))
            return await update_tenant(change, tenant, merged(spec_of(current), given))

    @delete(
        TENANTS + "/{tenant:str}",
        opt=described(ADMIN_WRITE, Description(answer=DELETED, problems=(404, 409))),
        operation_id="deleteTenant",
        summary="Delete a tenant and revoke its keys; its usage stays",
        status_code=200,
    )
    async def deleted_tenant(request: AnyRequest, tenant: FromPath[str]) -> Deleted:
        async with context.change(request) as change:
            return Deleted(id=await delete_tenant(change, tenant))

    return [organisations, new_organisation, tenants, new_tenant, tenant, changed_tenant, deleted_tenant]


KEYS = "/admin/v1/keys"
_MAX_OVERLAP_S = 30 * 86400


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that the old key stays valid along with the new one."""

    overlap_s: Annotated[float, Meta(ge=0, le=_MAX_OVERLAP_S)] = 0.0


_keys = RequestDecoder(KeySpec, {})
_rotations = RequestDecoder(Rotation, {})
OfTenant = Annotated[str | None, QueryParameter(max_length=128, description="Name or id of a tenant")]


def key_routes(context: AdminContext) -> list[HTTPRouteHandler]:
    @get(
        KEYS,
        opt=described(ADMIN_READ, Description(answer=page_example(KEY), problems=(400, 404))),
        operation_id="listKeys",
        summary="Keys without their secrets",
    )
    async def keys(tenant: OfTenant = None, after: After = "", limit: Limit = PAGE) -> Page[KeyRecord]:
        async with context.session() as session:
            return page_of(await list_keys(session, tenant=tenant, after=after, limit=limit + 1), limit=limit)

    @post(
        KEYS,
        opt=described(
            ADMIN_WRITE,
            Description(request=KeySpec, example={"tenant": "acme", "name": "ci"}, answer=NEW_KEY, problems=(409,)),
        ),
        operation_id="createKey",
        summary="Create a key; the secret is shown only in this response",
    )
    async def new_key(request: AnyRequest) -> NewKey:
        spec = await context.body(request, _keys)
        async with context.change(request) as change:
            return await create_key(change, spec)

    @get(
        KEYS + "/{key:str}",
        opt=described(ADMIN_READ, Description(answer=KEY, problems=(404,))),
        operation_id="retrieveKey",
        summary="One key without its secret",
    )
    async def key(key: FromPath[str]) -> KeyRecord:
        async with context.session() as session:
            return await find_key(session, key)

    @post(
        KEYS + "/{key:str}/rotate",
        opt=described(
            ADMIN_WRITE, Description(request=Rotation, example={"overlap_s": 3600}, answer=NEW_KEY, problems=(409,))
        ),
        operation_id="rotateKey",
        summary="Replace a key by a new one; the old key expires after an overlap",
    )
    async def rotated_key(request: AnyRequest, key: FromPath[str]) -> NewKey:
        rotation = await context.body(request, _rotations)
        async with context.change(request) as change:
            return await rotate_key(change, key, overlap_s=rotation.overlap_s)

    @delete(
        KEYS + "/{key:str}",
        opt=described(ADMIN_WRITE, Description(answer=DELETED, problems=(404, 409))),
        operation_id="revokeKey",
        summary="Revoke a key; takes effect within a second on every gateway",
        status_code=200,
    )
    async def revoked_key(request: AnyRequest, key: FromPath[str]) -> Deleted:
        async with context.change(request) as change:
            await revoke_key(change, key)
        return Deleted(id=key)

    return [keys, new_key, key, rotated_key, revoked_key]
