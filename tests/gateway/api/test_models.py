"""`/v1/models` and the probes."""

from __future__ import annotations

import httpx
import pytest

from backends.api import Health
from backends.testing.backend import FakeBackend
from gateway.app import Services, create_app
from gateway.metrics import Metrics
from gateway.process.drain import Drain
from gateway.routing import Models
from tests.gateway.api.conftest import TENANTS, ServedApp, chat, client_of
from tests.gateway.tenants.declared import directory_of


async def test_list(client: httpx.AsyncClient) -> None:
    """Every model of the server, as OpenAI lists them."""
    answer = (await client.get("/v1/models")).json()

    assert answer["object"] == "list"
    assert answer["data"][0] == {"id": "demo", "object": "model", "created": 1_700_000_000, "owned_by": "hostelry"}
    assert [model["id"] for model in answer["data"]] == ["demo", "other"]


async def test_one(client: httpx.AsyncClient) -> None:
    """One model by name, also spelt with an escaped character."""
    assert (await client.get("/v1/models/demo")).json()["id"] == "demo"
    assert (await client.get("/v1/models/%64emo")).json()["id"] == "demo"


async def test_narrow_tenant(served_app: ServedApp) -> None:
    """A tenant sees its models only; the others read like models that do not exist."""
    async with client_of(served_app, key="sk-narrow-0123456789") as client:
        listed = (await client.get("/v1/models")).json()["data"]
        hidden = await client.get("/v1/models/demo")
        missing = await client.get("/v1/models/dema")
        refused = await client.post("/v1/chat/completions", json=chat())

    assert [model["id"] for model in listed] == ["other"]
    assert hidden.status_code == missing.status_code == refused.status_code == 404
    assert hidden.json()["error"]["message"].replace("demo", "dema") == missing.json()["error"]["message"]
    assert refused.json()["error"]["code"] == "model_not_found"
    assert served_app.backend.requests == []


@pytest.mark.parametrize("name", ["nope", "demo:adapter", "a/b/c", "x" * 5000, "%00", "..%2f..%2fetc"])
async def test_missing(name: str, client: httpx.AsyncClient) -> None:
    """404 with the names that would work."""
    response = await client.get(f"/v1/models/{name}")

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert "demo" in response.json()["error"]["message"]


async def test_loading_model(client: httpx.AsyncClient, served_app: ServedApp) -> None:
    """Requests to a model that is loading get a retry time; `ready` shows the progress without a key."""
    served_app.backend.current_health = Health(ready=False, detail="/secret/path", progress=0.42)

    refused = await client.post("/v1/chat/completions", json=chat())
    probe = await client.get("/health/ready")

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_not_ready"
    assert "42%" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"]
    assert probe.status_code == 503
    assert probe.json() == {
        "status": "loading",
        "waiting_for": [{"name": "demo", "progress": 0.42}, {"name": "other", "progress": 0.42}],
    }
    assert "secret" not in refused.text + probe.text
    assert (await client.get("/health/live")).json() == {"status": "alive"}


async def test_a_fallback_is_told_by_health_and_metrics(client: httpx.AsyncClient, served_app: ServedApp) -> None:
    """Never silent: the probe says what was wanted, and the gauge can raise an alarm."""
    served_app.backend.current_health = Health(ready=True, fallbacks=("CUDA was asked for, the CPU serves",))

    served_app.services.metrics.watch(served_app.services.models)

    probe = await client.get("/health")

    assert probe.status_code == 200
    assert probe.json()["fallbacks"][0] == {"name": "demo", "detail": "CUDA was asked for, the CPU serves"}
    assert b'hostelry_engine_fallbacks{model="demo"} 1.0' in served_app.services.metrics.render()


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_ready(path: str, client: httpx.AsyncClient) -> None:
    """A healthy server names no model to callers without a key."""
    response = await client.get(path)

    assert response.status_code == 200
    assert response.json() == {"status": "ready", "waiting_for": []}


async def test_expected_models() -> None:
    """A server is not ready before every declared model was added; requests for one are told to wait."""
    services = Services(
        models=Models(expected=("big",)), directory=directory_of(TENANTS), metrics=Metrics(), drain=Drain()
    )
    async with client_of(ServedApp(create_app(services), services, FakeBackend())) as client:  # which serves nothing
        probe = await client.get("/health/ready")
        refused = await client.post("/v1/chat/completions", json=chat(model="big"))

    assert probe.json() == {"status": "loading", "waiting_for": [{"name": "big", "progress": 0.0}]}
    assert refused.status_code == 503
