"""Operations of `/admin/v1`, derived from the handlers: paths, parameters, request and response bodies."""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from gateway.api.admin.description import Json, description_of
from gateway.api.admin.routes import admin_routes
from gateway.api.openapi.operation import Operation
from gateway.api.services import Services

_PATH_PARAMETER = re.compile(r"\{(\w+):\w+\}")
_TYPES = {str: "string", int: "integer", float: "number"}
_CONSTRAINTS = {"ge": "minimum", "le": "maximum", "max_length": "maxLength", "description": "description"}


def admin_operations() -> tuple[Operation, ...]:
    """One operation a handler, in the order of the routes."""
    handlers = admin_routes(cast(Services, cast(object, None)))  # described here, never called
    return tuple(_operation(handler) for handler in handlers)


def _operation(handler: HTTPRouteHandler) -> Operation:
    (path,), (method,) = handler.paths, handler.http_methods
    description = description_of(handler.opt)
    parameters = inspect.signature(handler.fn).parameters
    hints = get_type_hints(handler.fn, include_extras=True)
    response = description.response or hints["return"]
    return Operation(
        path=_PATH_PARAMETER.sub(r"{\1}", path),
        method=method.lower(),
        id=str(handler.operation_id),
        summary=str(handler.summary),
        description=handler.description or "",
        request=description.request,
        response=response,
        status=handler.status_code,
        query={name: _schema(hints[name], each) for name, each in parameters.items() if _is_query(hints[name])},
        also=description.also,
        example=description.example or None,
        answer=description.answer,
        problems=description.problems,
        parameter=next(iter(_PATH_PARAMETER.findall(path)), None),
    )


def _is_query(hint: object) -> bool:
    return get_origin(hint) is Annotated and any(isinstance(each, QueryParameter) for each in get_args(hint)[1:])


def _schema(hint: Any, parameter: inspect.Parameter) -> Json:  # Any: annotations are not typed
    kind, constraint = get_args(hint)[:2]
    schema: Json = _type(kind)
    for name, key in _CONSTRAINTS.items():
        if (value := getattr(constraint, name)) is not None:
            schema[key] = value
    if parameter.default is not None:
        schema["default"] = parameter.default
    return schema


def _type(kind: Any) -> Json:  # Any: annotations are not typed
    if get_origin(kind) is Literal:
        return {"type": "string", "enum": list(get_args(kind))}
    plain = next(each for each in (*get_args(kind), kind) if each in _TYPES)
    return {"type": _TYPES[plain]}
