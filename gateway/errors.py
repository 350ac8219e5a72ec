"""What can go wrong at the edge, and the one table from exception to HTTP status and OpenAI error object.

GatewayError
├── InvalidRequest          the body cannot be served as it stands
│   ├── InvalidJson         it is no JSON object of sane depth
│   └── UnsupportedParameter  understood, but ignoring it would change the meaning
├── Unauthorized            no key, or one that nobody holds
├── TooManyWrongKeys        an address showed too many of those
├── HostNotAllowed          the server is called by a name that is not its own
├── PermissionDenied        this may not be done
│   ├── TenantDisabled      its tenant is switched off
│   └── OriginNotAllowed    a web page of another site asks
├── NotFound                no such route
│   └── ModelNotFound       no such model or adapter for this tenant
├── MethodNotAllowed
├── BodyTooLarge
├── UnsupportedMediaType
├── RateLimited             a limit of the tenant or key is reached
│   └── ShareTooSmall       other gateways hold what is left of it
├── QuotaExceeded           a budget of the tenant or key is used up
├── UsageUnavailable        what is used could not be written down
├── ModelNotReady           the model is loading or its engine is down
├── Draining                the server is shutting down
└── GenerationFailed        accepted, then not finished
"""

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
from gateway.api.schemas.errors import ErrorDetail, ErrorObject
from gateway.tenants.store.errors import Conflict, StoreError, UnknownEntry

_log = logging.getLogger(__name__)


class GatewayError(Exception):
    """Root of what the gateway itself raises. `message` is shown to the client, `param` names the field at fault."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class InvalidRequest(GatewayError):
    """A value is missing, of the wrong type or out of bounds."""


class InvalidJson(InvalidRequest):
    """The body is no JSON object."""


class UnsupportedParameter(InvalidRequest):
    """A parameter that this server knows and refuses, because ignoring it would change the meaning."""


class Unauthorized(GatewayError):
    """No usable key. The message never says which part of a key was wrong."""


class TooManyWrongKeys(GatewayError):
    """An address showed more wrong keys in a minute than `server.max_wrong_keys_per_minute`."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HostNotAllowed(GatewayError):
    """The `Host` header names a server that this one is not, see `server.allowed_hosts`."""


class PermissionDenied(GatewayError):
    """The key is valid and has no scope for this."""


class TenantDisabled(PermissionDenied):
    """The key is valid and its tenant may not call."""


class OriginNotAllowed(PermissionDenied):
    """A browser asks for a page of a site that is not this server's."""


class NotFound(GatewayError):
    """Nothing is served at this path."""


class ModelNotFound(NotFound):
    """The model or adapter does not exist, or this tenant may not see it; both read the same."""


class MethodNotAllowed(GatewayError):
    """The path exists with another method."""

    def __init__(self, allow: str) -> None:
        super().__init__(f"this path takes {allow}")
        self.allow = allow


class BodyTooLarge(GatewayError):
    """The body exceeds `server.max_body_bytes`."""


class UnsupportedMediaType(GatewayError):
    """The body is not plain JSON in UTF-8."""


class RateLimited(GatewayError):
    """The caller asks for more than it may now; without `retry_after_s`, more than it ever may."""

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ShareTooSmall(RateLimited):
    """The limit has room, and other gateways hold it."""


class QuotaExceeded(GatewayError):
    """A budget of the caller has too little left for this request, until its day or month ends."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UsageUnavailable(GatewayError):
    """The journal of usage cannot be written, and what cannot be accounted for is not served."""

    retry_after_s = 1.0


class ModelNotReady(GatewayError):
    """The model exists and cannot answer yet."""

    retry_after_s = 2.0


class Draining(GatewayError):
    """The server finishes what it has and takes nothing new."""

    retry_after_s = 5.0


class GenerationFailed(GatewayError):
    """A backend ended a request with `Failed`; `code` is the backend's own."""


class Rule(msgspec.Struct, frozen=True):
    """How a class of errors is answered."""

    status: int
    type: str
    code: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it goes over the wire."""

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
"""What a client library must not try again without being told to."""


_REFUSALS: Mapping[type, str] = {TenantQueueFull: "tenant_queue_full", WaitTooLong: "wait_too_long"}


def reason_of(error: Exception) -> str:
    """Why a request was refused, for a metric: one of few words, whatever a backend says."""
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
    """Our own words; the router's come without its framework's prefix."""
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
        return ((b"x-should-retry", b"false"),)  # its time is over, however often it is sent
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
