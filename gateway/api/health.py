"""Probes, from cached state: they answer while models load and while engines are busy."""

from __future__ import annotations

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from gateway.api.access import PUBLIC
from gateway.api.schemas.health import Fallback, Live, Loading, Readiness
from gateway.services import Services


def health_routes(services: Services) -> list[HTTPRouteHandler]:
    @get("/health/live", sync_to_thread=False, opt=PUBLIC)
    def live() -> Live:
        return Live()

    @get(["/health/ready", "/health"], sync_to_thread=False, opt=PUBLIC)
    def ready() -> Response[Readiness]:
        found = readiness(services)
        if found.status == "ready":
            return Response(found)
        return Response(found, status_code=503, headers={"retry-after": "1"})

    return [live, ready]


def readiness(services: Services) -> Readiness:
    """Ready once every declared model can answer, until the server drains or an engine fails."""
    models = services.models
    waiting_for = [Loading(name=name, progress=0.0) for name in models.missing]
    fallbacks: list[Fallback] = []
    for model in models:
        health = model.backend.health()
        fallbacks += [Fallback(name=model.name, detail=detail) for detail in health.fallbacks]
        if not health.ready:
            waiting_for.append(Loading(name=model.name, progress=round(health.progress, 3)))
    if not services.drain.accepting():
        return Readiness(status="draining", waiting_for=waiting_for, fallbacks=fallbacks)
    is_ready = len(models) > 0 and not waiting_for
    return Readiness(status="ready" if is_ready else "loading", waiting_for=waiting_for, fallbacks=fallbacks)
