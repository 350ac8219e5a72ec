"""OpenAPI description of an admin route beyond the signature of its handler: bodies, problems, examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

Json = dict[str, Any]  # Any: JSON Schema and OpenAPI are open by nature
_OPTION = "description"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a handler: `request` is the body's struct, `response` that of a body encoded by the handler."""

    request: type[msgspec.Struct] | None = None
    response: object = None
    example: Json = {}
    answer: object
    also: str = ""
    """Another media type that a parameter selects."""
    problems: tuple[int, ...] = ()


def described(access: Mapping[str, Any], description: Description) -> dict[str, Any]:
    """Options of a handler: its required access, and its description."""
    return {**access, _OPTION: description}


def description_of(options: Mapping[str, Any]) -> Description:
    """The description among the options of a handler. Raises `KeyError` where there is none."""
    description = options[_OPTION]
    assert isinstance(description, Description)
    return description


TENANT: Json = {
    "id": "ten_000650a1b2c3d4e5f6a7b8c9d0",
    "object": "tenant",
    "name": "acme",
    "limits": {"requests_per_minute": 60},
    "max_output_tokens": 2000,
    "origin": "api",
    "created_at": 1767225600.0,
}
KEY: Json = {
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
NEW_KEY: Json = KEY | {"key": "sk-ho-…"}
ORGANISATION: Json = {
    "id": "org_000650a1b2c3d4e5f6a7b8c9d0",
    "object": "organisation",
    "name": "Acme",
    "created_at": 1767225600.0,
}
AUDIT_ENTRY: Json = {
    "number": 1,
    "object": "audit",
    "at": 1767225600.0,
    "actor": "operator",
    "action": "tenant.create",
    "target": TENANT["id"],
    "request_id": "req_0123456789abcdef01234567",
    "detail": {"name": "acme"},
    "digest": 64 * "0",
}
_TOKENS: Json = {"prompt_tokens": 19, "cached_tokens": 0, "completion_tokens": 8, "accepted_prediction_tokens": 0}
USAGE_SUM: Json = {"object": "usage", "tenant": TENANT["id"], "tenant_name": "acme", "requests": 1} | _TOKENS
USED_REQUEST: Json = {
    "id": "chatcmpl-0123456789abcdef01234567",
    "request_id": "req_0123456789abcdef01234567",
    "tenant_id": TENANT["id"],
    "key_id": KEY["id"],
    "model": "hostelry-demo",
    "state": "completed",
    "started_at": 1767225600.0,
    "ended_at": 1767225601.0,
} | _TOKENS
DELETED = {"id": KEY["id"], "deleted": True}


def page_example(entry: Json) -> Json:
    """Page with one entry."""
    return {"object": "list", "data": [entry], "has_more": False}
