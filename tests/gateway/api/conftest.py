"""An application over a fake backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import httpx
import msgspec
import pytest
from litestar import Litestar

from backends.generation import GenerateRequest
from backends.testing.backend import FakeBackend, Script
from gateway.app import Services, create_app
from gateway.metrics import Metrics
from gateway.process.drain import Drain
from gateway.routing import Models, ServedModel
from gateway.tenants.records import TenantConfig
from tests.gateway.api.asgi import KEY
from tests.gateway.tenants.declared import directory_of

TENANTS = (
    TenantConfig(name="acme", keys=(KEY,)),
    TenantConfig(name="narrow", keys=("sk-narrow-0123456789",), models=("other",)),
    TenantConfig(name="closed", keys=("sk-closed-0123456789",), disabled=True),
)


class ServedApp(msgspec.Struct, frozen=True):
    """The application, and what it stands on."""

    app: Litestar
    services: Services
    backend: FakeBackend

    def metric(self, name: str, **labels: str) -> float:
        """A sample of `/metrics`; 0 if it is not there."""
        lines = self.services.metrics.render().decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [
            line for line in lines if line.split("{")[0].split(" ")[0] == name and all(each in line for each in wanted)
        ]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def build(script: Script | Callable[[GenerateRequest], Script] | None = None, **settings: Any) -> ServedApp:
    """Build an application with the models `demo` and `other` on one backend."""
    backend = FakeBackend(script)
    models = Models([ServedModel(name=name, backend=backend, created=1_700_000_000) for name in ("demo", "other")])
    known: dict[str, Any] = {"directory": directory_of(TENANTS), "metrics": Metrics(), "drain": Drain()}
    known |= {"models": models} | settings
    services = Services(**known)
    return ServedApp(create_app(services), services, backend)


def client_of(served_app: ServedApp, *, key: str | None = KEY) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(cast(Any, served_app.app), client=("203.0.113.7", 50000))
    return httpx.AsyncClient(transport=transport, base_url="http://house", headers=headers)


@pytest.fixture
def served_app() -> ServedApp:
    return build()


@pytest.fixture
async def client(served_app: ServedApp) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(served_app) as open_client:
        yield open_client


def chat(content: object = "Hi", **fields: object) -> dict[str, object]:
    return {"model": "demo", "messages": [{"role": "user", "content": content}], **fields}
