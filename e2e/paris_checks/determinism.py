"""P10: what else is in the batch never changes an answer."""

from __future__ import annotations

import asyncio

import httpx

from e2e.harness.nonce import rng
from e2e.harness.running_server import Known, Target
from e2e.harness.wire import TIMEOUT, Json, ask, headers

REPEATS = 3


def check_p10(target: Target, known: Known) -> None:
    """Eight requests of two tenants at once, greedy and seeded, each three times: all equal their solo output."""
    asyncio.run(_check(target, known, _requests(known)))


async def _check(target: Target, known: Known, requests: list[tuple[str, Json]]) -> None:
    async with httpx.AsyncClient(base_url=target.api, timeout=TIMEOUT) as client:
        keys = [target.keys.acme if place % 2 else target.keys.globex for place in range(len(requests))]
        jobs = list(zip(keys, requests, strict=True))
        solo = [await _text(client, key, *request) for key, request in jobs]
        _assert_greedy_ones_are_right(known, requests, solo)
        for _ in range(REPEATS):
            together = await asyncio.gather(*(_text(client, key, *request) for key, request in jobs))
            assert list(together) == solo
        same_thrice = await asyncio.gather(*(_text(client, jobs[0][0], *jobs[0][1]) for _ in range(REPEATS)))
        assert list(same_thrice) == [solo[0]] * REPEATS


def _requests(known: Known) -> list[tuple[str, Json]]:
    """Chat and completions on two models, of different lengths, temperature 0 and a seeded 1."""
    draw = rng("interleaved")
    chats = [ask("What is the capital of Japan?", max_tokens=30), ask("Count to 9.", max_tokens=40)]
    chats += [body | {"temperature": 1, "seed": draw.randrange(2**31)} for body in chats]
    requests = [("/chat/completions", body) for body in chats]
    prompts = known.random.steady_prompts(draw, 4, max_tokens=30, lengths=range(2, 60))
    for temperature, prompt in zip((0, 0, 1, 1), prompts, strict=True):
        body: Json = {"model": "random", "prompt": prompt, "max_tokens": draw.randrange(10, 31), "ignore_eos": True}
        requests.append(("/completions", body | {"temperature": temperature, "seed": draw.randrange(2**31)}))
    return requests


def _assert_greedy_ones_are_right(known: Known, requests: list[tuple[str, Json]], texts: list[str]) -> None:
    """Assert that greedy answers are right, since an answer that never changes could still be wrong."""
    for (_, body), text in zip(requests, texts, strict=True):
        if body["temperature"]:
            continue
        if "messages" in body:
            expected = known.demo.chat(body["messages"][0]["content"], max_tokens=body["max_tokens"])
        else:
            expected = known.random.greedy(body["prompt"], body["max_tokens"], ignore_eos=True)
        assert text == expected.text, body


async def _text(client: httpx.AsyncClient, key: str, path: str, body: Json) -> str:
    response = await client.post(path, json=body, headers=headers(key))
    assert response.status_code == 200, response.text[:500]
    choice: Json = response.json()["choices"][0]
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text
