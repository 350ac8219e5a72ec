"""Limits as a client meets them."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import msgspec
import pytest

from backends.errors import ContextLengthExceeded, Overloaded
from backends.testing.backend import Script
from gateway.routing import ServedModel
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.limits.prices import Price
from gateway.tenants.policy import Limits
from gateway.tenants.records import TenantConfig
from tests.gateway.api.conftest import ServedApp, build, chat, client_of
from tests.gateway.tenants.declared import directory_of

KEY = "sk-limited-0123456789"
CHAT = "/v1/chat/completions"


def served_app_of(script: Script | None = None, **limits: float) -> ServedApp:
    """App with one tenant under limits and a clock that stands still."""
    tenant = TenantConfig(name="limited", keys=(KEY,), limits=msgspec.convert(limits, Limits))
    return build(script, directory=directory_of([tenant]), limiter=Limiter(now=lambda: 5.0))


async def post(client: httpx.AsyncClient, **fields: object) -> httpx.Response:
    return await client.post(CHAT, json=chat(**fields))


async def test_too_many_requests() -> None:
    """429 with the time to wait, in the words of OpenAI; every answer tells what is left."""
    async with client_of(served_app_of(requests_per_minute=2), key=KEY) as client:
        answers = [await post(client) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    error = answers[2].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert answers[2].headers["retry-after"] == "61"
    assert answers[2].headers["retry-after-ms"] == "61000"


async def test_only_what_runs_counts() -> None:
    """Lists and bad requests take nothing, and tell what is left."""
    async with client_of(served_app_of(requests_per_minute=1), key=KEY) as client:
        others = [await client.get("/v1/models"), await client.post(CHAT, json={}), await post(client, model="x")]
        good = await post(client)

    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in others] == ["1", "1", "1"]
    assert good.status_code == 200


async def test_forwarded_addresses_change_nothing() -> None:
    """The key is who calls."""
    statuses = []
    async with client_of(served_app_of(requests_per_minute=3), key=KEY) as client:
        for number in range(10):
            headers = {"x-forwarded-for": f"10.0.0.{number}"}
            statuses.append((await client.post(CHAT, json=chat(), headers=headers)).status_code)

    assert statuses.count(200) == 3


async def test_tokens_settle_to_what_was_used() -> None:
    """Seven of the prompt and two of the answer; the reservation is larger while it runs."""
    served_app = served_app_of(tokens_per_minute=100)
    async with client_of(served_app, key=KEY) as client:
        first, second, third = [await post(client, max_tokens=80) for _ in range(3)]

    assert [answer.status_code for answer in (first, second, third)] == [200, 200, 429]
    assert "asks for 87 tokens" in third.json()["error"]["message"]
    assert third.headers["x-ratelimit-remaining-tokens"] == "82"
    assert [request.max_context for request in served_app.backend.requests] == [None, None, None]


async def test_a_request_that_never_fits() -> None:
    """Is not tried again by the official clients."""
    async with client_of(served_app_of(tokens_per_minute=50), key=KEY) as client:
        answer = await post(client, max_tokens=60)

    assert answer.status_code == 429
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


async def test_a_budget_that_is_used_up() -> None:
    """Another error than a limit a minute, as with OpenAI, and not to be tried again before the day ends."""
    async with client_of(served_app_of(tokens_per_day=100), key=KEY) as client:
        answers = [await post(client, max_tokens=80) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    error = answers[2].json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert "used 18 tokens of its budget of 100 tokens for this day" in error["message"]
    assert answers[2].headers["x-should-retry"] == "false"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 86400


async def test_a_budget_of_money() -> None:
    """Tokens cost what the model's price says, prompts and answers apart."""
    served_app = served_app_of(cost_per_month=0.001)
    served_app.services.models.add(
        ServedModel(name="dear", backend=served_app.backend, price=Price(input=10, output=40)),
    )
    async with client_of(served_app, key=KEY) as client:
        answers = [await post(client, model="dear", max_tokens=20) for _ in range(3)]
        free = await post(client, model="demo", max_tokens=20)

    assert [answer.status_code for answer in answers] == [200, 429, 429]
    assert "used 0.00015 of its budget of 0.001 for this month, and the request may take 0.00087" in answers[1].text
    assert free.status_code == 200


async def test_the_edge_of_a_budget() -> None:
    """Twenty requests at once: as many run as fit the budget, and it is never exceeded."""
    served_app = served_app_of(Script(pause_before=1), tokens_per_day=100)
    async with client_of(served_app, key=KEY) as client:
        running = [asyncio.create_task(post(client, max_tokens=23)) for _ in range(20)]
        for _, refused in zip(range(17), asyncio.as_completed(running, timeout=60), strict=False):
            await refused
        served_app.backend.resume()
        answers = await asyncio.gather(*running)
        used = sum(answer.json()["usage"]["total_tokens"] for answer in answers if answer.status_code == 200)

    assert Counter(answer.status_code for answer in answers) == {200: 3, 429: 17}
    assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 429} == {
        "rate_limit_exceeded"
    }
    assert used <= 100


async def test_a_prompt_for_which_too_little_is_left() -> None:
    """Is told that the limits are in the way, not the model."""
    script = Script(refusal=ContextLengthExceeded("This tenant's maximum context length is 9 tokens"))
    async with client_of(served_app_of(script, tokens_per_day=9), key=KEY) as client:
        bounded, asked = await post(client), await post(client, max_tokens=1)

    assert (bounded.status_code, asked.status_code) == (429, 400)
    assert "leave now" in bounded.json()["error"]["message"]


async def test_without_a_wish_the_limit_bounds_the_context() -> None:
    """A request that names no length fits a minute that is empty."""
    served_app = served_app_of(tokens_per_minute=50)
    async with client_of(served_app, key=KEY) as client:
        assert (await post(client)).status_code == 200

    assert served_app.backend.requests[0].max_context == 50


@pytest.mark.parametrize("stream", [False, True])
async def test_places_are_free_again(stream: bool) -> None:
    """A concurrency slot is free again as soon as the response is over."""
    served_app = served_app_of(Script(pause_before=1), concurrent_requests=1)
    async with client_of(served_app, key=KEY) as client:
        running = asyncio.create_task(post(client, stream=stream))
        await served_app.backend.paused.wait()
        refused = await post(client)
        served_app.backend.resume()
        statuses = [(await running).status_code, refused.status_code, (await post(client)).status_code]

    assert statuses == [200, 429, 200]


async def test_a_failure_gives_tokens_back() -> None:
    """Tokens offered before a failure stay counted; the rest of the reservation is returned."""
    async with client_of(
        served_app_of(Script(failure=("engine_failed", "gone")), tokens_per_minute=100), key=KEY
    ) as client:
        failed = await post(client, max_tokens=90)
        after = await client.get("/v1/models")

    assert failed.status_code == 500
    assert int(after.headers["x-ratelimit-remaining-tokens"]) >= 91


async def test_a_refusal_of_the_engine_takes_nothing() -> None:
    """A request that never ran was none."""
    script = Script(refusal=Overloaded("full", retry_after_s=1))
    async with client_of(served_app_of(script, requests_per_minute=5, tokens_per_minute=100), key=KEY) as client:
        refused = await post(client)

    assert refused.status_code == 503
    assert refused.headers["x-ratelimit-remaining-requests"] == "5"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "100"
