"""Generates the OpenAPI 3.1 document from the wire structs and the table of operations.

python -m gateway.api.openapi.document > openapi/openapi.json
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from gateway import __version__
from gateway.api.openapi.admin_operations import admin_operations
from gateway.api.openapi.operation import Json, Operation
from gateway.api.openapi.operations import OPERATIONS
from gateway.api.schemas.chat import CancelFrame, EndFrame, SocketRequest
from gateway.api.schemas.common import ErrorObject

_REF = "#/components/schemas/{name}"
_PROBLEMS = {
    400: "The request cannot be served as it stands; `param` names the field.",
    401: "The API key is missing or unknown.",
    403: "The tenant of this key is disabled, the key lacks the scope, or a web page of another site asks.",
    404: "No such route or entry, or no such model for this tenant.",
    409: "A name is taken, or the entry is declared in the configuration file.",
    405: "This method is not allowed here; see `Allow`.",
    413: "The body is too large.",
    415: "The body is not plain JSON.",
    421: "The `Host` header names another server; see `server.allowed_hosts`.",
    429: "A rate limit, a budget, a full queue, or too many wrong keys; see `Retry-After`.",
    500: "An internal error; the message contains the request id.",
    503: "Overloaded, loading or shutting down; see `Retry-After`.",
    504: "The response was not complete when the request's deadline passed.",
}
_ALWAYS = (403, 405, 421, 500)
_GUARDED = (401, 429, 503)
_WITH_BODY = (400, 404, 413, 415)


def document() -> Json:
    """The whole document as plain values."""
    paths: dict[str, Json] = {}
    for operation in _operations():
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hostelry",
            "version": __version__,
            "summary": "An OpenAI-compatible gateway for many tenants, with its own inference engines",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
            "schemas": _schemas(),
            "responses": {f"Problem{status}": _problem(text) for status, text in _PROBLEMS.items()},
        },
    }


@cache
def _operations() -> tuple[Operation, ...]:
    return (*OPERATIONS, *admin_operations())


@cache
def render_document() -> str:
    """The document as JSON text in a stable order, with a newline at the end."""
    plain = msgspec.json.encode(document(), order="sorted")
    return msgspec.json.format(plain, indent=2).decode() + "\n"


def _described(operation: Operation) -> Json:
    described: Json = {
        "operationId": operation.id,
        "summary": operation.summary,
        "security": [] if operation.is_public else [{"key": []}],
        "responses": {str(operation.status): _success(operation), **dict(_failures(operation))},
    }
    if operation.description:
        described["description"] = operation.description
    if parameters := list(_parameters(operation)):
        described["parameters"] = parameters
    if operation.request:
        content = {"schema": _ref(operation.request), "example": operation.example}
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    return described


def _parameters(operation: Operation) -> Iterator[Json]:
    if operation.parameter:
        schema = {"type": "string", "minLength": 1}
        yield {"name": operation.parameter, "in": "path", "required": True, "schema": schema}
    for name, schema in operation.query.items():
        yield {"name": name, "in": "query", "required": False, "schema": schema}


def _success(operation: Operation) -> Json:
    schema: Json = _ref(operation.response) if operation.response else {}
    if operation.media_type == "text/plain":
        schema = {"type": "string"}
    content = {operation.media_type: {"schema": schema, "example": operation.answer}}
    if operation.also:
        content[operation.also] = {"schema": {"type": "string"}, "example": ""}
    if operation.chunk:
        text = f"Each `data:` line holds a {operation.chunk.__name__}; the last one is `[DONE]`."
        content["text/event-stream"] = {
            "schema": {"type": "string", "description": text},
            "example": "data: [DONE]\n\n",
        }
    return {"description": "Success.", "headers": _HEADERS, "content": content}


_HEADERS: Json = {
    "x-request-id": {
        "description": "The client's id if it matches `[A-Za-z0-9_-]{1,128}`, else a new one.",
        "schema": {"type": "string"},
    }
}


def _failures(operation: Operation) -> Iterator[tuple[str, Json]]:
    statuses = {*_ALWAYS, *operation.problems}
    statuses.update(() if operation.is_public else _GUARDED)
    statuses.update(_WITH_BODY if operation.request else ())
    for status in sorted(statuses):
        yield str(status), {"$ref": f"#/components/responses/Problem{status}"}
    if operation.unready:
        content = {"application/json": {"schema": _ref(operation.unready)}}
        yield "503", {"description": "Not ready; the body says why.", "headers": _HEADERS, "content": content}


def _problem(text: str) -> Json:
    example = {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": None}}
    content = {"application/json": {"schema": _ref(ErrorObject), "example": example}}
    return {"description": text, "headers": _HEADERS, "content": content}


def _ref(kind: object) -> Json:
    return dict(_components()[0][kind])


def _schemas() -> Json:
    return _components()[1]


@cache
def _components() -> tuple[dict[object, Json], Json]:
    """References by type, and the schemas by name."""
    kinds: set[Any] = {ErrorObject, SocketRequest, CancelFrame, EndFrame}
    for operation in _operations():
        named = (operation.request, operation.response, operation.chunk, operation.unready)
        kinds.update(kind for kind in named if kind)
    ordered = sorted(kinds, key=str)
    references, schemas = msgspec.json.schema_components(ordered, ref_template=_REF)
    return dict(zip(ordered, references, strict=True)), schemas


if __name__ == "__main__":
    print(render_document(), end="")
