"""The error object that every failed request gets."""

from __future__ import annotations

import msgspec


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, in one sentence that says how to fix it; `param` is a path such as `messages[0].content`."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorObject(msgspec.Struct, frozen=True):
    """Body of every answer that is no success, and of the last event of a stream that broke."""

    error: ErrorDetail
