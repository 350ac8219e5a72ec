"""`/metrics` and `/openapi.json`."""

from __future__ import annotations

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from gateway.api.access import LOCAL, PUBLIC
from gateway.openapi import render_document
from gateway.services import Services

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def document_routes(services: Services) -> list[HTTPRouteHandler]:
    @get("/metrics", sync_to_thread=False, opt=LOCAL)
    def metrics() -> Response[bytes]:
        return Response(services.metrics.render(), media_type=_PROMETHEUS)

    @get("/openapi.json", sync_to_thread=True, opt=PUBLIC)  # the first one takes a moment, and no start waits for it
    def openapi() -> Response[bytes]:
        return Response(render_document().encode(), media_type="application/json")

    return [metrics, openapi]
