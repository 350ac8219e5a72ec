"""`/metrics` and `/openapi.json`."""

from __future__ import annotations

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from gateway.api.access import LOCAL, PUBLIC
from gateway.openapi import render_document
from gateway.services import Services

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def document_routes(services: Services) -> list[HTTPRouteHandler]:
    document = render_document().encode()

    @get("/metrics", sync_to_thread=False, opt=LOCAL)
    def metrics() -> Response[bytes]:
        return Response(services.metrics.render(), media_type=_PROMETHEUS)

    @get("/openapi.json", sync_to_thread=False, opt=PUBLIC)
    def openapi() -> Response[bytes]:
        return Response(document, media_type="application/json")

    return [metrics, openapi]
