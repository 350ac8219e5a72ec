"""`/admin/v1/tenants` and `/admin/v1/organisations`."""

from __future__ import annotations

from litestar import delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from gateway.api.access import ADMIN_READ, ADMIN_WRITE
from gateway.api.admin.desk import PAGE, After, AnyRequest, Deleted, Desk, Limit, Page, merged, page_of
from gateway.api.decode import RequestDecoder
from gateway.tenants.records import OrganisationRecord, OrganisationSpec, TenantRecord, TenantSpec
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


def tenant_routes(desk: Desk) -> list[HTTPRouteHandler]:
    @get(ORGANISATIONS, opt=ADMIN_READ)
    async def organisations(after: After = "", limit: Limit = PAGE) -> Page[OrganisationRecord]:
        async with desk.session() as session:
            return page_of(await list_organisations(session, after=after, limit=limit + 1), limit=limit)

    @post(ORGANISATIONS, opt=ADMIN_WRITE)
    async def new_organisation(request: AnyRequest) -> OrganisationRecord:
        spec = await desk.body(request, _organisations)
        async with desk.change(request) as change:
            return await create_organisation(change, spec.name)

    @get(TENANTS, opt=ADMIN_READ)
    async def tenants(after: After = "", limit: Limit = PAGE) -> Page[TenantRecord]:
        async with desk.session() as session:
            return page_of(await list_tenants(session, after=after, limit=limit + 1), limit=limit)

    @post(TENANTS, opt=ADMIN_WRITE)
    async def new_tenant(request: AnyRequest) -> TenantRecord:
        spec = await desk.body(request, _tenants)
        async with desk.change(request) as change:
            return await create_tenant(change, spec)

    @get(TENANTS + "/{tenant:str}", opt=ADMIN_READ)
    async def tenant(tenant: FromPath[str]) -> TenantRecord:
        async with desk.session() as session:
            return await tenant_record(session, await find_tenant(session, tenant))

    @patch(TENANTS + "/{tenant:str}", opt=ADMIN_WRITE)
    async def changed_tenant(request: AnyRequest, tenant: FromPath[str]) -> TenantRecord:
        given = await desk.fields(request)
        async with desk.change(request) as change:
            current = await tenant_record(change.session, await find_tenant(change.session, tenant))
            return await update_tenant(change, tenant, merged(spec_of(current), given))

    @delete(TENANTS + "/{tenant:str}", opt=ADMIN_WRITE, status_code=200)
    async def deleted_tenant(request: AnyRequest, tenant: FromPath[str]) -> Deleted:
        async with desk.change(request) as change:
            return Deleted(id=await delete_tenant(change, tenant))

    return [organisations, new_organisation, tenants, new_tenant, tenant, changed_tenant, deleted_tenant]
