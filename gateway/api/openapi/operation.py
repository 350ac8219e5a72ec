"""Row type of the table of operations."""

from __future__ import annotations

from typing import Any

import msgspec

Json = dict[str, Any]  # Any: JSON Schema and OpenAPI are open by nature


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. `chunk` is the type of a stream's events; `media_type` is for bodies that are no JSON.

    `response` may be a generic struct such as `Page[TenantRecord]`; `query` names the parameters and their types.
    """

    path: str
    method: str
    id: str
    summary: str
    description: str = ""
    request: type[msgspec.Struct] | None = None
    response: Any = None  # Any: a struct, or a generic one with its argument
    status: int = 200
    query: dict[str, Json] = {}
    chunk: type[msgspec.Struct] | None = None
    media_type: str = "application/json"
    also: str = ""
    """Another media type that a parameter selects."""
    example: Json | None = None
    answer: object = None
    is_public: bool = False
    problems: tuple[int, ...] = ()
    parameter: str | None = None
    unready: type[msgspec.Struct] | None = None
