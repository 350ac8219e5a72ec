"""The body of a request: plain JSON in UTF-8, up to a size."""

from __future__ import annotations

import asyncio
import contextlib

from litestar.types import HTTPScope, Receive

from gateway.api.disconnect import ClientGone
from gateway.errors import BodyTooLarge, GatewayError, InvalidRequest, UnsupportedMediaType

_DISCARD_BYTES = 64 * 1024 * 1024
_DISCARD_S = 10.0


async def read_json_body(scope: HTTPScope, receive: Receive, *, max_bytes: int) -> bytes:
    """The whole body.

    Raises `UnsupportedMediaType` or `BodyTooLarge` after what the client still sends was thrown away, so that it
    reads the answer instead of a reset; `ClientGone` if the connection ends first.
    """
    try:
        _check_headers(scope, max_bytes=max_bytes)
    except GatewayError:
        await discard_body(receive)
        raise
    return await _read(receive, max_bytes=max_bytes)


async def discard_body(receive: Receive) -> None:
    """Read on and forget, up to 64 MiB or 10 s."""
    left = _DISCARD_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_S):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))


def _check_headers(scope: HTTPScope, *, max_bytes: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-type":
            _check_type(value)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaType("compressed bodies are not accepted; send plain JSON")
        elif name == b"content-length":
            _check_length(value, max_bytes=max_bytes)


def _check_type(value: bytes) -> None:
    kind, _, parameters = value.lower().partition(b";")
    if kind.strip() != b"application/json":
        raise UnsupportedMediaType("the body must be JSON; send Content-Type: application/json")
    charset = parameters.partition(b"charset=")[2].split(b";")[0].strip(b' "')
    if charset not in (b"", b"utf-8", b"utf8", b"us-ascii"):
        raise UnsupportedMediaType("the body must be UTF-8; leave the charset out")


def _check_length(value: bytes, *, max_bytes: int) -> None:
    if not value.isdigit():
        raise InvalidRequest("Content-Length is not a number")
    if len(value) > 18 or int(value) > max_bytes:
        raise _too_large(max_bytes)


async def _read(receive: Receive, *, max_bytes: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        part, has_more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > max_bytes:
            if has_more:
                await discard_body(receive)
            raise _too_large(max_bytes)
        parts.append(part)
        if not has_more:
            return b"".join(parts) if len(parts) > 1 else part


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body exceeds {max_bytes} bytes; shorten it, or raise server.max_body_bytes")
