"""Adapters by name and by tenant: what the backend is asked, and that it is never asked without them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from adapters.ref import AdapterRef
from backends.testing.backend import FakeBackend
from gateway.app import Services, create_app
from gateway.metrics import Metrics
from gateway.process.drain import Drain
from gateway.routing import Models, ServedModel
from gateway.tenants.records import TenantConfig
from tests.gateway.api.asgi import KEY, Socket
from tests.gateway.api.conftest import ServedApp, chat, client_of
from tests.gateway.tenants.declared import directory_of

LAWYER = "sk-lawyer-0123456789"
TENANTS = (
    TenantConfig(name="acme", keys=(KEY,)),
    TenantConfig(name="lawyer", keys=(LAWYER,), default_adapter="law"),
)


def served_app_of(backend: FakeBackend) -> ServedApp:
    adapters = (AdapterRef(name="law", base="", path=""), AdapterRef(name="tax", base="", path="", tenants=("lawyer",)))
    models = Models([ServedModel(name="demo", backend=backend, created=1, adapters=adapters)])
    services = Services(models=models, directory=directory_of(TENANTS), metrics=Metrics(), drain=Drain())
    return ServedApp(create_app(services), services, backend)


async def asked(served_app: ServedApp, key: str, model: str) -> list[httpx.Response]:
    """The answers to a chat and to a completion."""
    async with client_of(served_app, key=key) as client:
        return [
            await client.post("/v1/chat/completions", json=chat(model=model)),
            await client.post("/v1/completions", json={"model": model, "prompt": ["a", "b"]}),
        ]


@pytest.mark.parametrize(
    ("key", "model", "adapter"),
    [(KEY, "demo", None), (KEY, "demo:law", "law"), (LAWYER, "demo", "law"), (LAWYER, "demo:tax", "tax")],
)
async def test_the_backend_is_asked_for_it(key: str, model: str, adapter: str | None) -> None:
    """The backend receives the adapter on both routes and for every choice; the response names the model and adapter
    used, also when the request named none.
    """
    served_app = served_app_of(FakeBackend(adapters=True))

    answers = await asked(served_app, key, model)

    assert [answer.status_code for answer in answers] == [200, 200]
    assert {answer.json()["model"] for answer in answers} == {"demo" if adapter is None else f"demo:{adapter}"}
    assert [request.adapter for request in served_app.backend.requests] == [adapter] * 3


@pytest.mark.parametrize(("key", "model"), [(KEY, "demo:law"), (LAWYER, "demo"), (LAWYER, "demo:law"), (KEY, "demo:")])
async def test_an_engine_without_adapters(key: str, model: str) -> None:
    """404 that names the adapter; the model alone is never asked in its place, nor over a WebSocket."""
    served_app = served_app_of(FakeBackend())

    answers = await asked(served_app, key, model)
    socket = await Socket(served_app.app, headers={"Authorization": f"Bearer {key}"}).open()
    socket.send(chat(model=model))
    frame: Any = await socket.frame()
    await socket.close()

    errors = [answer.json()["error"] for answer in answers] + [frame["error"]]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert {(error["code"], error["param"]) for error in errors} == {("model_not_found", "model")}
    assert all(f"has no adapter '{'' if model == 'demo:' else 'law'}'" in error["message"] for error in errors)
    assert served_app.backend.requests == []


async def test_streams_say_it_too() -> None:
    """Every chunk."""
    served_app = served_app_of(FakeBackend(adapters=True))

    async with client_of(served_app, key=LAWYER) as client:
        lines = (await client.post("/v1/chat/completions", json=chat(stream=True))).text.split("\n\n")

    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert {chunk["model"] for chunk in chunks} == {"demo:law"}


async def test_listed_for_those_who_may() -> None:
    """Adapters are listed after their model, which is their parent; single ones by name, with 404 for others' ones."""
    served_app = served_app_of(FakeBackend(adapters=True))

    async with client_of(served_app, key=KEY) as acme, client_of(served_app, key=LAWYER) as lawyer:
        listed = (await acme.get("/v1/models")).json()["data"]
        all_listed = (await lawyer.get("/v1/models")).json()["data"]
        shown = await lawyer.get("/v1/models/demo:tax")
        hidden, missing = await acme.get("/v1/models/demo:tax"), await acme.get("/v1/models/demo:tay")
        refused = await acme.post("/v1/chat/completions", json=chat(model="demo:tax"))

    base = {"object": "model", "created": 1, "owned_by": "hostelry"}
    assert listed == [{"id": "demo", **base}, {"id": "demo:law", **base, "parent": "demo"}]
    assert [model["id"] for model in all_listed] == ["demo", "demo:law", "demo:tax"]
    assert shown.json() == all_listed[2]
    assert hidden.status_code == missing.status_code == refused.status_code == 404
    assert hidden.json()["error"]["message"].replace("tax", "tay") == missing.json()["error"]["message"]
    assert served_app.backend.requests == []
