"""Reads a request body: plain JSON in UTF-8 up to a size, decoded into a wire struct; errors name the field."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from typing import Generic, NoReturn, TypeVar

import msgspec
from litestar.types import HTTPScope, Receive

from gateway.api.disconnect import ClientGone
from gateway.api.unsupported import Harmless, refuse_unsupported
from gateway.errors import BodyTooLarge, GatewayError, InvalidJson, InvalidRequest, UnsupportedMediaType

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>.*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<field>\w+)`")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>[^`]{1,128})`")
_SHOWN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_SHOWN_NAMES = 16


class Decoded(msgspec.Struct, Generic[T], frozen=True):
    """Decoded request, and the names of its fields that have no effect here."""

    request: T
    ignored: tuple[str, ...]


class RequestDecoder(Generic[T]):
    """Decodes one type of request."""

    def __init__(self, kind: type[T], refused: Mapping[str, tuple[Harmless, str]]) -> None:
        self._names = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._struct = msgspec.json.Decoder(kind)
        self._known = frozenset(kind.__struct_encode_fields__)
        self._refused = refused

    def decode(self, body: bytes | str) -> Decoded[T]:
        """Raises `InvalidJson`, `InvalidRequest` or `UnsupportedParameter`."""
        try:
            if isinstance(body, bytes):
                body.decode()  # msgspec does not check the strings that it skips
            given = self._names.decode(body)
            refuse_unsupported(given, self._refused)
            request = self._struct.decode(body)
        except msgspec.MsgspecError as error:
            raise_invalid(error)
        except UnicodeError:
            raise InvalidJson("the body is not valid UTF-8") from None
        except RecursionError:
            raise InvalidJson("the body is nested too deeply") from None
        unknown = given.keys() - self._known - self._refused.keys()
        return Decoded(request, _shown(unknown) if unknown else ())


def raise_invalid(error: msgspec.MsgspecError) -> NoReturn:
    """Raise the error for the client that a msgspec error stands for."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        raise InvalidJson(f"the body is not valid JSON: {_lowered(text)}") from None
    found = _AT.search(text)
    problem = text[: found.start()] if found else text
    param = found["path"] if found else ""
    missing = _MISSING.match(problem)
    if missing:
        param = f"{param}.{missing['field']}" if param else missing["field"]
        raise InvalidRequest(f"{param} is required", param=param) from None
    unknown = _UNKNOWN.match(problem)
    if unknown:
        param = f"{param}.{unknown['field']}" if param else unknown["field"]
        raise InvalidRequest(f"there is no field {param}", param=param) from None
    if not param:
        raise InvalidJson(f"the body must be a JSON object: {_lowered(problem)}") from None
    raise InvalidRequest(f"{param}: {_lowered(problem)}", param=param) from None


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:].replace("`", "")


def _shown(names: set[str]) -> tuple[str, ...]:
    """Names that fit into a header, in order; others are ignored without being shown."""
    return tuple(sorted(name for name in names if _SHOWN_NAME.fullmatch(name))[:_MAX_SHOWN_NAMES])


def ignored_header(decoded: Decoded[T]) -> list[tuple[bytes, bytes]]:
    """One header that warns of fields without effect; none if there are none."""
    return [(b"x-hostelry-ignored", ",".join(decoded.ignored).encode())] if decoded.ignored else []


_DISCARD_BYTES = 64 * 1024 * 1024
_DISCARD_S = 10.0


async def read_json_body(scope: HTTPScope, receive: Receive, *, max_bytes: int) -> bytes:
    """Read the whole body.

    Raises `UnsupportedMediaType` or `BodyTooLarge` after the rest of the upload was discarded, so that the client
    reads the response instead of a reset; `ClientGone` if the connection ends first.
    """
    try:
        _check_headers(scope, max_bytes=max_bytes)
    except GatewayError:
        await discard_body(receive)
        raise
    return await _read(receive, max_bytes=max_bytes)


async def discard_body(receive: Receive) -> None:
    """Read and discard, up to 64 MiB or 10 s."""
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
