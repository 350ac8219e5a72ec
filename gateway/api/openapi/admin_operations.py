"""The operations of `/admin/v1`."""

from __future__ import annotations

from gateway.api.admin.context import Deleted, Page
from gateway.api.admin.tenants import KEYS, ORGANISATIONS, TENANTS, KeyRotation
from gateway.api.admin.usage import AUDIT, USAGE, Verdict
from gateway.api.openapi.operation import Json, Operation
from gateway.tenants.records import (
    AuditRecord,
    KeyRecord,
    KeySpec,
    NewKey,
    OrganisationRecord,
    OrganisationSpec,
    TenantRecord,
    TenantSpec,
)
from gateway.tenants.store.usage import UsageSum
from gateway.tenants.usage.entry import UsageEntry

_LIMIT: Json = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
_PAGES: dict[str, Json] = {"after": {"type": "string", "maxLength": 64, "default": ""}, "limit": _LIMIT}
_AFTER_NUMBER: Json = {"type": "integer", "minimum": 0, "default": 0}
_TENANT: Json = {
    "id": "ten_000650a1b2c3d4e5f6a7b8c9d0",
    "object": "tenant",
    "name": "acme",
    "limits": {"requests_per_minute": 60},
    "max_output_tokens": 2000,
    "origin": "api",
    "created_at": 1767225600.0,
}
_KEY: Json = {
    "id": "key_000650a1b2c3d4e5f6a7b8c9d0",
    "object": "key",
    "tenant": "acme",
    "name": "ci",
    "hint": "sk-ho-…abcd",
    "scopes": ["inference"],
    "limits": {},
    "origin": "api",
    "created_at": 1767225600.0,
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": None,
}
_NEW_KEY: Json = _KEY | {"key": "sk-ho-…"}
_ORGANISATION: Json = {
    "id": "org_000650a1b2c3d4e5f6a7b8c9d0",
    "object": "organisation",
    "name": "Acme",
    "created_at": 1767225600.0,
}
_ENTRY: Json = {
    "number": 1,
    "object": "audit",
    "at": 1767225600.0,
    "actor": "operator",
    "action": "tenant.create",
    "target": _TENANT["id"],
    "request_id": "req_0123456789abcdef01234567",
    "detail": {"name": "acme"},
    "digest": 64 * "0",
}
_SPAN: dict[str, Json] = {
    "tenant": {"type": "string", "maxLength": 128},
    "start": {"type": "number", "minimum": 0, "maximum": 1e12, "default": 0},
    "end": {"type": "number", "minimum": 0, "maximum": 1e12, "default": 1e12},
    "format": {"type": "string", "enum": ["json", "csv"], "default": "json"},
}
_TOKENS: Json = {"prompt_tokens": 19, "cached_tokens": 0, "completion_tokens": 8, "accepted_prediction_tokens": 0}
_SUM: Json = {"object": "usage", "tenant": _TENANT["id"], "tenant_name": "acme", "requests": 1} | _TOKENS
_USED: Json = {
    "id": "chatcmpl-0123456789abcdef01234567",
    "request_id": "req_0123456789abcdef01234567",
    "tenant_id": _TENANT["id"],
    "key_id": _KEY["id"],
    "model": "hostelry-demo",
    "state": "completed",
    "started_at": 1767225600.0,
    "ended_at": 1767225601.0,
} | _TOKENS
_GONE = {"id": _KEY["id"], "deleted": True}


def _list(entry: Json) -> Json:
    return {"object": "list", "data": [entry], "has_more": False}


ADMIN_OPERATIONS = (
    Operation(
        path=ORGANISATIONS,
        method="get",
        id="listOrganisations",
        summary="Organisations",
        response=Page[OrganisationRecord],
        query=_PAGES,
        answer=_list(_ORGANISATION),
        problems=(400,),
    ),
    Operation(
        path=ORGANISATIONS,
        method="post",
        id="createOrganisation",
        summary="Create an organisation",
        request=OrganisationSpec,
        response=OrganisationRecord,
        status=201,
        example={"name": "Acme"},
        answer=_ORGANISATION,
        problems=(409,),
    ),
    Operation(
        path=TENANTS,
        method="get",
        id="listTenants",
        summary="Tenants in the order of creation",
        response=Page[TenantRecord],
        query=_PAGES,
        answer=_list(_TENANT),
        problems=(400,),
    ),
    Operation(
        path=TENANTS,
        method="post",
        id="createTenant",
        summary="Create a tenant",
        request=TenantSpec,
        response=TenantRecord,
        status=201,
        example={"name": "acme", "limits": {"requests_per_minute": 60}, "max_output_tokens": 2000},
        answer=_TENANT,
        problems=(409,),
    ),
    Operation(
        path=TENANTS + "/{tenant}",
        method="get",
        id="retrieveTenant",
        summary="One tenant, by name or id",
        response=TenantRecord,
        answer=_TENANT,
        problems=(404,),
        parameter="tenant",
    ),
    Operation(
        path=TENANTS + "/{tenant}",
        method="patch",
        id="updateTenant",
        summary="Change a tenant",
        description="A JSON merge patch: fields left out stay, null takes one back to its default.",
        request=TenantSpec,
        response=TenantRecord,
        example={"max_output_tokens": 3, "limits": {"requests_per_minute": None}},
        answer=_TENANT,
        problems=(409,),
        parameter="tenant",
    ),
    Operation(
        path=TENANTS + "/{tenant}",
        method="delete",
        id="deleteTenant",
        summary="Delete a tenant and revoke its keys; its usage stays",
        response=Deleted,
        answer=_GONE,
        problems=(404, 409),
        parameter="tenant",
    ),
    Operation(
        path=KEYS,
        method="get",
        id="listKeys",
        summary="Keys without their secrets",
        response=Page[KeyRecord],
        query={"tenant": {"type": "string", "maxLength": 128}} | _PAGES,
        answer=_list(_KEY),
        problems=(400, 404),
    ),
    Operation(
        path=KEYS,
        method="post",
        id="createKey",
        summary="Create a key; the one time that it is shown",
        request=KeySpec,
        response=NewKey,
        status=201,
        example={"tenant": "acme", "name": "ci"},
        answer=_NEW_KEY,
        problems=(409,),
    ),
    Operation(
        path=KEYS + "/{key}",
        method="get",
        id="retrieveKey",
        summary="One key without its secret",
        response=KeyRecord,
        answer=_KEY,
        problems=(404,),
        parameter="key",
    ),
    Operation(
        path=KEYS + "/{key}/rotate",
        method="post",
        id="rotateKey",
        summary="A new key like an old one, which ends after an overlap",
        request=KeyRotation,
        response=NewKey,
        status=201,
        example={"overlap_s": 3600},
        answer=_NEW_KEY,
        problems=(409,),
        parameter="key",
    ),
    Operation(
        path=KEYS + "/{key}",
        method="delete",
        id="revokeKey",
        summary="Revoke a key, everywhere within a second",
        response=Deleted,
        answer=_GONE,
        problems=(404, 409),
        parameter="key",
    ),
    Operation(
        path=USAGE,
        method="get",
        id="sumUsage",
        summary="What was used, summed up",
        description="By whole hours. `format=csv` answers with text/csv.",
        response=Page[UsageSum],
        also="text/csv",
        query=_SPAN | {"group_by": {"type": "string", "maxLength": 64, "default": "", "example": "tenant,hour"}},
        answer=_list(_SUM),
        problems=(400, 404),
    ),
    Operation(
        path=USAGE + "/requests",
        method="get",
        id="listUsage",
        summary="Every request, in the order of its end",
        description="`format=csv` answers with text/csv, and `x-has-more` tells whether to go on.",
        response=Page[UsageEntry],
        also="text/csv",
        query=_SPAN | _PAGES,
        answer=_list(_USED),
        problems=(400, 404),
    ),
    Operation(
        path=AUDIT,
        method="get",
        id="listAudit",
        summary="What operators did, oldest first",
        response=Page[AuditRecord],
        query={"after": _AFTER_NUMBER, "limit": _LIMIT},
        answer=_list(_ENTRY),
        problems=(400,),
    ),
    Operation(
        path=AUDIT + "/verify",
        method="get",
        id="verifyAudit",
        summary="Whether the log is whole",
        response=Verdict,
        answer={"whole": True, "broken_at": None},
    ),
)
