"""Bytes of a body → a wire struct, with errors that name the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Generic, NoReturn, TypeVar

import msgspec

from gateway.api.unsupported import Harmless, refuse_unsupported
from gateway.errors import InvalidJson, InvalidRequest

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>.*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<field>\w+)`")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>[^`]{1,128})`")
_SHOWN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_SHOWN_NAMES = 16


class Decoded(msgspec.Struct, Generic[T], frozen=True):
    """A request, and the names of its fields that mean nothing here."""

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
                body.decode()  # what msgspec skips it does not check
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
    """Raise what a msgspec error means to the client."""
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
