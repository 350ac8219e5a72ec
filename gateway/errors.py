"""Errors of the gateway. `gateway.api.problems` maps each to a response.

GatewayError
├── InvalidRequest          the body cannot be served as it stands
│   ├── InvalidJson         it is no JSON object of sane depth
│   └── UnsupportedParameter  understood, but ignoring it would change the meaning
├── Unauthorized            no key, or an unknown one
├── TooManyWrongKeys        an address sent too many of those
├── HostNotAllowed          the server is called by a name that is not its own
├── PermissionDenied        this may not be done
│   ├── TenantDisabled      its tenant is disabled
│   └── OriginNotAllowed    the request comes from a web page of another site
├── NotFound                no such route
│   └── ModelNotFound       no such model or adapter for this tenant
├── MethodNotAllowed
├── BodyTooLarge
├── UnsupportedMediaType
├── RateLimited             a limit of the tenant or key is reached
│   └── ShareTooSmall       other gateways have the rest of it
├── QuotaExceeded           a budget of the tenant or key is used up
├── UsageUnavailable        usage could not be recorded
├── ModelNotReady           the model is loading or its engine is down
├── Draining                the server is shutting down
└── GenerationFailed        accepted, then not finished
"""

from __future__ import annotations


class GatewayError(Exception):
    """Root of the gateway's own errors. `message` is shown to the client, `param` names the field at fault."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class InvalidRequest(GatewayError):
    """A value is missing, of the wrong type or out of bounds."""


class InvalidJson(InvalidRequest):
    """The body is no JSON object."""


class UnsupportedParameter(InvalidRequest):
    """The parameter is known and rejected, because ignoring it would change the meaning."""


class Unauthorized(GatewayError):
    """No usable key. The message does not reveal which part of a key was wrong."""


class TooManyWrongKeys(GatewayError):
    """An address sent more wrong keys in a minute than `server.max_wrong_keys_per_minute`."""

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
    """A browser sent the request for a page of another site."""


class NotFound(GatewayError):
    """No route exists at this path."""


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
    """The caller exceeds its present limits; without `retry_after_s`, the request can never fit."""

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ShareTooSmall(RateLimited):
    """The limit has room, but in the shares of other gateways."""


class QuotaExceeded(GatewayError):
    """A budget of the caller has too little left for this request, until its day or month ends."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UsageUnavailable(GatewayError):
    """The journal of usage cannot be written, and what cannot be recorded is not served."""

    retry_after_s = 1.0


class ModelNotReady(GatewayError):
    """The model exists and cannot serve yet."""

    retry_after_s = 2.0


class Draining(GatewayError):
    """The server finishes running requests and accepts no new ones."""

    retry_after_s = 5.0


class GenerationFailed(GatewayError):
    """A backend ended a request with `Failed`; `code` is the backend's own."""


class ConfigError(Exception):
    """The configuration cannot be used; every line of the message is one problem."""
