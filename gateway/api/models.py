"""Routes of `/v1/models`: the models that this tenant may use, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import UNSET

from gateway.api.auth import INFERENCE, request_context_of
from gateway.api.schemas.common import ModelList, ModelObject
from gateway.api.services import Services
from gateway.routing import Route

AnyRequest = Request[Any, Any, Any]  # Any: Litestar's user, auth and state, none of which we use


def model_routes(services: Services) -> list[HTTPRouteHandler]:
    @get("/v1/models", sync_to_thread=False, opt=INFERENCE)
    def list_models(request: AnyRequest) -> ModelList:
        tenant = request_context_of(request.scope).authenticated.tenant
        return ModelList(data=[_shown(route) for route in services.models.visible_to(tenant)])

    @get("/v1/models/{model_id:path}", sync_to_thread=False, opt=INFERENCE)
    def show_model(request: AnyRequest, model_id: FromPath[Path]) -> ModelObject:
        return _shown(
            services.models.find(str(model_id).lstrip("/"), request_context_of(request.scope).authenticated.tenant)
        )

    return [list_models, show_model]


def _shown(route: Route) -> ModelObject:
    model = route.served
    parent = UNSET if route.adapter is None else model.name
    return ModelObject(id=route.name, created=model.created, owned_by=model.owned_by, parent=parent)
