"""The one table from exception to HTTP status and OpenAI error object."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import msgspec
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from backends.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    Overloaded,
    RequestError,
    TenantQueueFull,
    WaitTooLong,
)
from gateway.api.schemas.common import ErrorDetail, ErrorObject
from gateway.errors import (
    BodyTooLarge,
    Draining,
    GenerationFailed,
    HostNotAllowed,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    OriginNotAllowed,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    TenantDisabled,
    TooManyWrongKeys,
    Unauthorized,
    UnsupportedMediaType,
    UnsupportedParameter,
    UsageUnavailable,
)
from gateway.tenants.store.errors import Conflict, StoreError, UnknownEntry

_log = logging.getLogger("gateway.errors")


class Rule(msgspec.Struct, frozen=True):
    """HTTP status and error fields for a class of exceptions."""

    status: int
    type: str
    code: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Error as it is sent."""

    status: int
    body: ErrorObject
    headers: tuple[tuple[bytes, bytes], ...] = ()


_INVALID = "invalid_request_error"
TABLE: Mapping[type, Rule] = {
    InvalidRequest: Rule(400, _INVALID),
    InvalidJson: Rule(400, _INVALID, "invalid_json"),
    UnsupportedParameter: Rule(400, _INVALID, "unsupported_parameter"),
    RequestError: Rule(400, _INVALID),
    ContextLengthExceeded: Rule(400, _INVALID, "context_length_exceeded"),
    Unauthorized: Rule(401, _INVALID, "invalid_api_key"),
    PermissionDenied: Rule(403, "permission_error", "insufficient_scope"),
    TenantDisabled: Rule(403, "permission_error", "tenant_disabled"),
    OriginNotAllowed: Rule(403, "permission_error", "origin_not_allowed"),
    NotFound: Rule(404, _INVALID, "not_found"),
    ModelNotFound: Rule(404, _INVALID, "model_not_found"),
    NotFoundException: Rule(404, _INVALID, "not_found"),
    UnknownEntry: Rule(404, _INVALID, "not_found"),
    Conflict: Rule(409, _INVALID, "conflict"),
    MethodNotAllowed: Rule(405, _INVALID, "method_not_allowed"),
    MethodNotAllowedException: Rule(405, _INVALID, "method_not_allowed"),
    BodyTooLarge: Rule(413, _INVALID, "request_too_large"),
    UnsupportedMediaType: Rule(415, _INVALID, "unsupported_media_type"),
    HostNotAllowed: Rule(421, _INVALID, "host_not_allowed"),
    TooManyWrongKeys: Rule(429, "rate_limit_error", "rate_limit_exceeded"),
    RateLimited: Rule(429, "rate_limit_error", "rate_limit_exceeded"),
    TenantQueueFull: Rule(429, "rate_limit_error", "rate_limit_exceeded"),
    QuotaExceeded: Rule(429, "insufficient_quota", "insufficient_quota"),
    GenerationFailed: Rule(500, "server_error"),
    Overloaded: Rule(503, "server_error", "engine_overloaded"),
    UsageUnavailable: Rule(503, "server_error", "usage_store_unavailable"),
    ModelNotReady: Rule(503, "server_error", "model_not_ready"),
    Draining: Rule(503, "server_error", "server_shutdown"),
    StoreError: Rule(503, "server_error", "store_unavailable"),
    DeadlineExceeded: Rule(504, "server_error", "deadline_exceeded"),
}
"""The most derived class that is listed wins."""

FAILED_STATUS: Mapping[str | None, int] = {
    "engine_overloaded": 503,
    "server_shutdown": 503,
    "upstream_error": 502,
    "upstream_unreachable": 502,
    "upstream_timeout": 504,
    "deadline_exceeded": 504,
}
"""Status of a `Failed` before the first byte was sent, by the backend's code; 500 for any other."""

_NOT_BY_ITSELF = (QuotaExceeded, TooManyWrongKeys)
"""Errors that a client library must not retry unless told to."""


_REFUSALS: Mapping[type, str] = {TenantQueueFull: "tenant_queue_full", WaitTooLong: "wait_too_long"}


def reason_of(error: Exception) -> str:
    """Reason of a rejection for a metric: one of few words, whatever a backend reports."""
    for kind in type(error).__mro__:
        if kind in _REFUSALS:
            return _REFUSALS[kind]
        if kind in TABLE:
            return TABLE[kind].code or "invalid_request"
    return "unexpected"


def problem_of(error: Exception, *, request_id: str) -> Problem:
    """Translate any exception. An unexpected one is logged here, once, and shown only as a request id."""
    rule = next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), None)
    if rule is None and isinstance(error, HTTPException) and error.status_code < 500:
        rule = Rule(error.status_code, _INVALID)
    if rule is None:
        _log.error("request %s failed unexpectedly", request_id, exc_info=error)
        return _problem(
            500, "server_error", f"an unexpected error occurred; quote request id {request_id} when you report it"
        )
    if isinstance(error, GenerationFailed):
        _log.warning("request %s failed: %s (%s)", request_id, error, error.code)
    code = getattr(error, "code", None) or rule.code
    status = FAILED_STATUS.get(code, rule.status) if isinstance(error, GenerationFailed) else rule.status
    param = getattr(error, "param", None)
    return _problem(status, rule.type, _message_of(error), param=param, code=code, headers=_headers_of(error))


def _problem(
    status: int,
    kind: str,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Problem:
    detail = ErrorDetail(message=message, type=kind, param=param, code=code)
    return Problem(status=status, body=ErrorObject(detail), headers=headers)


def _message_of(error: Exception) -> str:
    """Error message; the router's come without its framework's prefix."""
    if isinstance(error, NotFoundException):
        return "nothing is served at this path; the routes are listed at /openapi.json"
    if isinstance(error, MethodNotAllowedException):
        return f"this path takes {_allowed(error)}"
    if isinstance(error, HTTPException):
        return error.detail or "the request cannot be served"
    return str(error) or "the request cannot be served"


def _headers_of(error: Exception) -> tuple[tuple[bytes, bytes], ...]:
    if isinstance(error, MethodNotAllowed):
        return ((b"allow", error.allow.encode()),)
    if isinstance(error, MethodNotAllowedException):
        return ((b"allow", _allowed(error).encode()),)
    if isinstance(error, Unauthorized):
        return ((b"www-authenticate", b"Bearer"),)
    if getattr(error, "code", None) == DeadlineExceeded.code:
        return ((b"x-should-retry", b"false"),)  # its deadline has passed, however often it is sent
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is None:
        return ((b"x-should-retry", b"false"),) if isinstance(error, RateLimited) else ()
    headers = (
        (b"retry-after", str(max(1, math.ceil(retry_after_s))).encode()),
        (b"retry-after-ms", str(max(1, round(retry_after_s * 1000))).encode()),
    )
    if isinstance(error, Draining):
        return (*headers, (b"connection", b"close"))
    return (*headers, (b"x-should-retry", b"false")) if isinstance(error, _NOT_BY_ITSELF) else headers


def _allowed(error: MethodNotAllowedException) -> str:
    methods = {method.strip() for method in (error.headers or {}).get("allow", "").split(",")}
    return ", ".join(sorted(methods - {"websocket", "asgi", ""}))
