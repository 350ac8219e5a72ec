"""Random bodies: a completion or the error object, never a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.api.conftest import ServedApp, build, client_of

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
NUMBER = st.floats(-3, 3) | st.integers(-5, 5)
NAMES = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "presence_penalty",
    "repetition_penalty",
    "ignore_eos",
    "deadline_s",
    "response_format",
    "tools",
    "tool_choice",
    "user",
    "metadata",
    "speculative",
    "echo",
    "suffix",
    "best_of",
    "x",
]
MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls", "audio"]), JUNK, max_size=4)
GOOD_MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()})
CHAT = st.fixed_dictionaries(
    {
        "model": st.just("demo") | JUNK,
        "messages": st.lists(GOOD_MESSAGE, min_size=1, max_size=3) | st.lists(MESSAGE, max_size=3) | JUNK,
    },
    optional=dict.fromkeys(NAMES, NUMBER | JUNK),
)
COMPLETION = st.fixed_dictionaries(
    {"model": st.just("demo") | JUNK, "prompt": st.text() | st.lists(st.integers(0, 9)) | JUNK},
    optional=dict.fromkeys(NAMES, NUMBER | JUNK),
)
Ask = Callable[[str, bytes], httpx.Response]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """One application for all bodies: whatever one of them does to it, the next must find it idle and healthy."""
    served_app = build()
    with asyncio.Runner() as runner:
        yield lambda path, body: runner.run(_send(served_app, path, body))


CALM = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@CALM
@given(CHAT)
def test_chat(ask: Ask, body: object) -> None:
    """150 chat bodies."""
    _check(ask("/v1/chat/completions", httpx.Request("POST", "http://x", json=_clean(body)).content))


@CALM
@given(COMPLETION)
def test_completions(ask: Ask, body: object) -> None:
    """150 completion bodies."""
    _check(ask("/v1/completions", httpx.Request("POST", "http://x", json=_clean(body)).content))


@CALM
@given(st.binary(max_size=200))
def test_bytes(ask: Ask, body: bytes) -> None:
    """150 bodies that are hardly JSON."""
    _check(ask("/v1/chat/completions", body))


def _clean(value: object) -> object:
    """Value without surrogates, which no client can put on the wire."""
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode()
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value


def _check(response: httpx.Response) -> None:
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    assert response.headers["x-request-id"]
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def _send(served_app: ServedApp, path: str, body: bytes) -> httpx.Response:
    async with client_of(served_app) as client:
        response = await client.post(path, content=body)
    assert served_app.backend.running == set()
    assert served_app.services.drain.num_open == 0
    return response
