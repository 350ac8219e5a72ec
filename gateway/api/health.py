"""Probes, served from cached state while models load and engines restart; `/metrics` and `/openapi.json`."""

from __future__ import annotations

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from gateway.api.auth import LOCAL, PUBLIC
from gateway.api.openapi.document import render_document
from gateway.api.schemas.common import Fallback, Live, Loading, Readiness
from gateway.api.services import Services

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def document_routes(services: Services) -> list[HTTPRouteHandler]:
    @get("/metrics", sync_to_thread=False, opt=LOCAL)
    def metrics() -> Response[bytes]:
        return Response(services.metrics.render(), media_type=_PROMETHEUS)

    @get("/openapi.json", sync_to_thread=True, opt=PUBLIC)  # the first call takes a moment, so not at start
    def openapi() -> Response[bytes]:
        return Response(render_document().encode(), media_type="application/json")

    return [metrics, openapi]


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
    """Readiness: ready once every declared model can serve, until the server drains or an engine fails."""
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
