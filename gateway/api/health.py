"""Probes, from cached state: they answer while models load and while engines are busy."""

from __future__ import annotations

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from gateway.api.schemas.health import Live, ModelReadiness, Readiness
from gateway.services import Services


def health_routes(services: Services) -> list[HTTPRouteHandler]:
    @get("/health/live", sync_to_thread=False)
    def live() -> Live:
        return Live()

    @get(["/health/ready", "/health"], sync_to_thread=False)
    def ready() -> Response[Readiness]:
        found = readiness(services)
        if found.status == "ready":
            return Response(found)
        return Response(found, status_code=503, headers={"retry-after": "1"})

    return [live, ready]


def readiness(services: Services) -> Readiness:
    """Ready once every declared model can answer, until the server drains or an engine fails."""
    models = [ModelReadiness(name=name, ready=False, progress=0.0) for name in services.models.missing]
    for model in services.models:
        health = model.backend.health()
        models.append(ModelReadiness(name=model.name, ready=health.ready, progress=round(health.progress, 3)))
    if not services.drain.accepting():
        return Readiness(status="draining", models=models)
    is_ready = bool(models) and all(model.ready for model in models)
    return Readiness(status="ready" if is_ready else "loading", models=models)
