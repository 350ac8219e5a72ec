"""Times of a request are counted from its arrival, before its body was read, decoded and routed."""

from __future__ import annotations

import asyncio
import time

import pytest

from backends.testing.backend import FakeBackend
from gateway.routing import Models, Route, ServedModel
from gateway.tenants.policy import Tenant
from tests.gateway.api.asgi import Connection, Exchange, Socket, scope_of
from tests.gateway.api.conftest import ServedApp, build, chat
from tests.gateway.clock import Clock

ROUTING_S = 5.0
PATHS = ("/v1/chat/completions", "/v1/completions")


class SlowModels(Models):
    """Routing takes 5 s of the clock."""

    clock: Clock

    def route(self, requested: str, tenant: Tenant) -> Route:
        self.clock.now += ROUTING_S
        return super().route(requested, tenant)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def slow_house(clock: Clock) -> ServedApp:
    models = SlowModels([ServedModel(name="demo", backend=FakeBackend())])
    models.clock = clock
    return build(models=models)


def body(path: str, **fields: object) -> dict[str, object]:
    return chat(**fields) if path == PATHS[0] else {"model": "demo", "prompt": "Hi", **fields}


def measured(served_app: ServedApp) -> tuple[float, float]:
    """Time to the first token and duration, each of one request."""
    names = ("time_to_first_token", "request_duration")
    assert [served_app.metric(f"hostelry_{name}_seconds_count") for name in names] == [1, 1]
    first, whole = (served_app.metric(f"hostelry_{name}_seconds_sum") for name in names)
    return first, whole


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_route_is_counted(slow_house: ServedApp, path: str, stream: bool) -> None:
    """Decoding and routing are part of what a client waits for."""
    await Exchange(slow_house.app, body(path, stream=stream), path=path).end()

    assert measured(slow_house) == (ROUTING_S, ROUTING_S)


async def test_a_slow_body_is_counted(served_app: ServedApp, clock: Clock) -> None:
    """A request arrives with its head."""
    connection = Connection(served_app.app, scope_of(PATHS[0]))
    await asyncio.sleep(0)

    clock.now += 3
    connection.say({"type": "http.request", "body": b'{"model": "demo", ', "more_body": True})
    connection.say({"type": "http.request", "body": b'"messages": [{"role": "user", "content": "Hi"}]}'})
    await connection.end()

    assert measured(served_app) == (3, 3)


async def test_a_frame_arrives_when_it_is_received(slow_house: ServedApp, clock: Clock) -> None:
    """A frame arrives when it is received, however long its socket has been open."""
    socket = await Socket(slow_house.app).open()
    clock.now += 100

    socket.send(chat() | {"request_id": "r"})
    await socket.frames_until("done", "r")
    await socket.close()

    assert measured(slow_house) == (ROUTING_S, ROUTING_S)


async def test_a_deadline_on_a_socket_counts_from_the_frame(slow_house: ServedApp) -> None:
    """The deadline counts from the frame, as over HTTP: time for decoding and routing is not added to it."""
    socket = await Socket(slow_house.app).open()

    start = time.monotonic()
    socket.send(chat(deadline_s=40) | {"request_id": "r"})
    await socket.frames_until("done", "r")
    end = time.monotonic()
    await socket.close()

    (backend,) = (model.backend for model in slow_house.services.models)
    assert isinstance(backend, FakeBackend)
    (request,) = backend.requests
    assert request.deadline_at is not None
    assert start + 40 - ROUTING_S <= request.deadline_at <= end + 40 - ROUTING_S
