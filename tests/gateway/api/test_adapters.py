"""Adapters by name and by tenant: what the backend is asked, and that it is never asked without them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from backends.testing.backend import FakeBackend
from gateway.app import Services, create_app
from gateway.config import TenantConfig
from gateway.drain import Drain
from gateway.metrics import Metrics
from gateway.routing import Models, ServedModel
from tests.gateway.api.asgi import KEY, Socket
from tests.gateway.api.conftest import House, chat, client_of
from tests.gateway.tenants.declared import directory_of

LAWYER = "sk-lawyer-0123456789"
TENANTS = (
    TenantConfig(name="acme", keys=(KEY,)),
    TenantConfig(name="lawyer", keys=(LAWYER,), default_adapter="law"),
)


def house_of(backend: FakeBackend) -> House:
    models = Models([ServedModel(name="demo", backend=backend)])
    services = Services(models=models, directory=directory_of(TENANTS), metrics=Metrics(), drain=Drain())
    return House(create_app(services), services, backend)


async def asked(house: House, key: str, model: str) -> list[httpx.Response]:
    """The answers to a chat and to a completion."""
    async with client_of(house, key=key) as client:
        return [
            await client.post("/v1/chat/completions", json=chat(model=model)),
            await client.post("/v1/completions", json={"model": model, "prompt": ["a", "b"]}),
        ]


@pytest.mark.parametrize(
    ("key", "model", "adapter"),
    [(KEY, "demo", None), (KEY, "demo:law", "law"), (LAWYER, "demo", "law"), (LAWYER, "demo:tax", "tax")],
)
async def test_the_backend_is_asked_for_it(key: str, model: str, adapter: str | None) -> None:
    """On both routes and for every choice; the answer says the name that was asked for."""
    house = house_of(FakeBackend(adapters=True))

    answers = await asked(house, key, model)

    assert [answer.status_code for answer in answers] == [200, 200]
    assert {answer.json()["model"] for answer in answers} == {model}
    assert [request.adapter for request in house.backend.requests] == [adapter] * 3


@pytest.mark.parametrize(("key", "model"), [(KEY, "demo:law"), (LAWYER, "demo"), (LAWYER, "demo:law"), (KEY, "demo:")])
async def test_an_engine_without_adapters(key: str, model: str) -> None:
    """404 that names the adapter; the model alone is never asked in its place, nor over a WebSocket."""
    house = house_of(FakeBackend())

    answers = await asked(house, key, model)
    socket = await Socket(house.app, headers={"Authorization": f"Bearer {key}"}).open()
    socket.send(chat(model=model))
    frame: Any = await socket.frame()
    await socket.close()

    errors = [answer.json()["error"] for answer in answers] + [frame["error"]]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert {(error["code"], error["param"]) for error in errors} == {("model_not_found", "model")}
    assert all(f"has no adapter '{'' if model == 'demo:' else 'law'}'" in error["message"] for error in errors)
    assert house.backend.requests == []
