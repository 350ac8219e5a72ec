"""Usage from a request to `/admin/v1/usage`."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.ref import AdapterRef
from backends.errors import Overloaded
from backends.testing.backend import FakeBackend, Script
from gateway.routing import Models, ServedModel
from gateway.tenants.service import open_tenancy
from tests.gateway.api.admin.conftest import ADMIN_KEY
from tests.gateway.api.asgi import Connection, scope_of
from tests.gateway.api.conftest import TENANTS, ServedApp, build, chat, client_of
from tests.gateway.clock import Clock

USAGE = "/admin/v1/usage"
CHAT = "/v1/chat/completions"


class AdminApp:
    """Application with a store, a tenant and the operator."""

    def __init__(self, served_app: ServedApp, tenant_client: httpx.AsyncClient, operator: httpx.AsyncClient) -> None:
        self.served_app, self.tenant_client, self.operator = served_app, tenant_client, operator

    async def usage(self, path: str = USAGE, **query: Any) -> Any:  # Any: JSON
        response = await self.operator.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    async def rows(self) -> Any:  # Any: JSON
        return await self.usage(f"{USAGE}/requests")


Opened = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Open an application over a script."""

    @asynccontextmanager
    async def open_admin_app(script: Script | None = None, **settings: Any) -> AsyncGenerator[AdminApp]:
        async with open_tenancy(TENANTS, url=None, data_dir=tmp_path, admin_key=ADMIN_KEY) as tenancy:
            known = {
                "directory": tenancy.directory,
                "tenant_admin": tenancy.tenant_admin,
                "usage_recorder": tenancy.usage_recorder,
            }
            served_app = build(script, **(known | settings))
            async with client_of(served_app) as tenant_client, client_of(served_app, key=ADMIN_KEY) as operator:
                yield AdminApp(served_app, tenant_client, operator)

    return open_admin_app


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_written_down(opened: Opened, stream: bool) -> None:
    """Every response is recorded with its id, the request id and the token counts that the client received."""
    async with opened() as admin_app:
        answer = await admin_app.tenant_client.post(CHAT, json=chat(stream=stream), headers={"x-request-id": "mine"})
        (row,) = await admin_app.rows()
        (by_name,) = await admin_app.usage(group_by="tenant,model")

    assert row["id"] in answer.text
    assert (row["request_id"], row["model"], row["state"]) == ("mine", "demo", "completed")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (7, 2)
    assert 0 <= row["ended_at"] - row["started_at"] < 5
    assert (by_name["tenant_name"], by_name["model"], by_name["requests"]) == ("acme", "demo", 1)
    assert by_name["tenant"] == row["tenant_id"]


async def test_a_row_starts_at_arrival(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to read the body counts as time of the request."""
    clock = Clock(monkeypatch)
    async with opened() as admin_app:
        connection = Connection(admin_app.served_app.app, scope_of(CHAT))
        await asyncio.sleep(0)

        clock.now += 60
        connection.say({"type": "http.request", "body": json.dumps(chat()).encode(), "more_body": False})
        await connection.end()
        (row,) = await admin_app.rows()

    assert 60 <= row["ended_at"] - row["started_at"] < 65


async def test_an_adapter_is_written_down(opened: Opened) -> None:
    """An adapter is recorded under its whole name, so that its part of a model's usage can be seen."""
    served = ServedModel(
        name="demo", backend=FakeBackend(adapters=True), adapters=(AdapterRef(name="law", base="", path=""),)
    )
    async with opened(models=Models([served])) as admin_app:
        for model in ("demo", "demo:law"):
            await admin_app.tenant_client.post(CHAT, json=chat(model=model))
        rows = await admin_app.rows()
        sums = await admin_app.usage(group_by="model")

    assert {row["model"] for row in rows} == {"demo", "demo:law"}
    assert {each["model"]: each["requests"] for each in sums} == {"demo": 1, "demo:law": 1}


async def test_refusals_are_not(opened: Opened) -> None:
    """Requests that never ran have no row: a bad body, an unknown model, a full engine."""
    async with opened(Script(refusal=Overloaded("full", retry_after_s=1))) as admin_app:
        for body in ({}, chat(model="nothing"), chat()):
            assert (await admin_app.tenant_client.post(CHAT, json=body)).status_code >= 400

        assert await admin_app.rows() == []
        assert await admin_app.usage() == []


@pytest.mark.parametrize(("code", "state"), [("engine_failed", "engine_failed"), ("server_shutdown", "shutdown")])
async def test_failures_are(opened: Opened, code: str, state: str) -> None:
    """Failed requests are recorded with the tokens offered before the end."""
    async with opened(Script(failure=(code, "gone"))) as admin_app:
        await admin_app.tenant_client.post(CHAT, json=chat())
        (row,) = await admin_app.rows()

    assert (row["state"], row["prompt_tokens"]) == (state, 7)


async def test_a_client_that_left(opened: Opened) -> None:
    """Counts for what it had been given."""
    async with opened(Script(pieces=("a", "b", "c"), pause_before=2)) as admin_app:
        task = asyncio.create_task(admin_app.tenant_client.post(CHAT, json=chat(stream=True)))
        await admin_app.served_app.backend.paused.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (row,) = await admin_app.rows()

    assert (row["state"], row["prompt_tokens"], row["completion_tokens"]) == ("client_cancelled", 7, 2)


async def test_several_choices_are_one_request(opened: Opened) -> None:
    """The prompt once, every completion."""
    async with opened() as admin_app:
        answer = await admin_app.tenant_client.post(CHAT, json=chat(n=3))
        (row,) = await admin_app.rows()

    assert row["completion_tokens"] == answer.json()["usage"]["completion_tokens"] == 6
    assert row["prompt_tokens"] == 7


async def test_a_request_id_said_twice(opened: Opened) -> None:
    """Is two requests: what the client calls them decides nothing."""
    async with opened() as admin_app:
        for _ in range(2):
            await admin_app.tenant_client.post(CHAT, json=chat(), headers={"x-request-id": "again"})

        assert len(await admin_app.rows()) == 2


async def test_csv(opened: Opened) -> None:
    """The same rows, under their names."""
    async with opened() as admin_app:
        for _ in range(3):
            await admin_app.tenant_client.post(CHAT, json=chat())
        first = await admin_app.operator.get(f"{USAGE}/requests", params={"format": "csv", "limit": 2})
        sums = await admin_app.operator.get(USAGE, params={"format": "csv", "group_by": "tenant"})
        rows = await admin_app.rows()

    lines = list(csv.DictReader(first.text.splitlines()))
    assert [line["id"] for line in lines] == [row["id"] for row in rows[:2]]
    assert (first.headers["x-has-more"], first.headers["content-type"]) == ("true", "text/csv; charset=utf-8")
    assert next(csv.DictReader(sums.text.splitlines()))["completion_tokens"] == "6"


async def test_what_cannot_be_written_down(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 until it can; what was served meanwhile is not lost."""

    def refuse(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    async with opened() as admin_app:
        monkeypatch.setattr("gateway.tenants.usage.journal.os.write", refuse)
        first = await admin_app.tenant_client.post(CHAT, json=chat())
        second = await admin_app.tenant_client.post(CHAT, json=chat())
        monkeypatch.undo()
        admin_app.served_app.services.usage_recorder.journal.retry()
        third = await admin_app.tenant_client.post(CHAT, json=chat())
        rows = await admin_app.rows()

    assert [answer.status_code for answer in (first, second, third)] == [200, 503, 200]
    assert second.json()["error"]["code"] == "usage_store_unavailable"
    assert second.headers["retry-after"] == "1"
    assert [row["id"] for row in rows] == [first.json()["id"], third.json()["id"]]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"group_by": "colour"}, 400),
        ({"group_by": "tenant,tenant"}, 400),
        ({"start": "yesterday"}, 400),
        ({"start": -1}, 400),
        ({"format": "xml"}, 400),
        ({"tenant": "nobody"}, 404),
        ({"tenant": "' OR 1=1 --"}, 404),
    ],
)
async def test_bad_questions(opened: Opened, query: dict[str, object], status: int) -> None:
    """Are answered with what is wrong."""
    async with opened() as admin_app:
        assert (await admin_app.operator.get(USAGE, params=query)).status_code == status
