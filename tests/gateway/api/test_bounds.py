"""Every number and list of a request has a bound."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from msgspec import inspect

from gateway.api.schemas.chat import CancelFrame, ChatCompletionRequest, Envelope, SocketRequest
from gateway.api.schemas.completions import CompletionRequest

REQUESTS = (ChatCompletionRequest, CompletionRequest, SocketRequest, CancelFrame, Envelope)


class Careless(msgspec.Struct):
    """Unbounded fields, all of which the walk must find."""

    number: int
    half: float | None
    texts: list[str]
    table: dict[str, str]
    anything: object


@pytest.mark.parametrize("kind", REQUESTS)
def test_nothing_is_unbounded(kind: type[msgspec.Struct]) -> None:
    """No field lets a client send more than we thought of."""
    assert list(_unbounded(inspect.type_info(kind), kind.__name__)) == []


def test_the_walk_finds_what_is_unbounded() -> None:
    """The test above can fail."""
    found = list(_unbounded(inspect.type_info(Careless), "x"))

    assert found == ["x.number", "x.half", "x.texts", "x.table", "x.anything"]


def _unbounded(kind: inspect.Type, where: str) -> Iterator[str]:
    """Paths of numbers, lists and objects without limits. Texts are bounded by the body, raw JSON is only compared."""
    match kind:
        case inspect.IntType() | inspect.FloatType():
            is_bounded = (kind.ge, kind.gt) != (None, None) and (kind.le, kind.lt) != (None, None)
            yield from [] if is_bounded else [where]
        case inspect.ListType(item_type=item):
            yield from [] if kind.max_length else [where]
            yield from _unbounded(item, f"{where}[]")
        case inspect.DictType(key_type=key, value_type=value):
            yield from [] if kind.max_length else [where]
            yield from _unbounded(key, f"{where}.key")
            yield from _unbounded(value, f"{where}.value")
        case inspect.UnionType(types=types):
            for each in types:
                yield from _unbounded(each, where)
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from _unbounded(field.type, f"{where}.{field.name}")
        case inspect.Metadata(type=inner):
            yield from _unbounded(inner, where)
        case inspect.StrType() | inspect.BoolType() | inspect.NoneType() | inspect.LiteralType() | inspect.RawType():
            pass
        case _:
            yield where
