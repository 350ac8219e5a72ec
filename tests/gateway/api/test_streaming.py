"""Server-Sent Events: exact bytes, failures in the midst, clients that leave or do not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.errors import (
    BackendError,
    ContextLengthExceeded,
    DeadlineExceeded,
    Overloaded,
    TenantQueueFull,
    WaitTooLong,
)
from backends.generation import Delta, TokenLogprob
from backends.testing.backend import Script
from tests.gateway.api.asgi import Exchange
from tests.gateway.api.conftest import ServedApp, build, chat

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def _fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and times that do not change."""
    monkeypatch.setattr("gateway.api.convert.secrets.token_hex", lambda size: "0" * 2 * size)
    monkeypatch.setattr("gateway.api.convert.time.time", lambda: 1_700_000_000.5)


@pytest.mark.usefixtures("_fixed")
@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("chat", "/v1/chat/completions", chat(stream=True)),
        ("chat-usage", "/v1/chat/completions", chat(stream=True, n=2, stream_options={"include_usage": True})),
        ("completion", "/v1/completions", {"model": "demo", "prompt": "x", "stream": True, "echo": True}),
    ],
)
async def test_exact_bytes(name: str, path: str, body: object) -> None:
    """The bytes on the wire are, byte for byte, those that clients parse today."""
    served_app = build(Script(pieces=("Hi\n", 'say "é"', Delta("", (5,)))))
    exchange = Exchange(served_app.app, body, path=path)

    status, headers = await exchange.start()
    wire = await exchange.rest()

    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["x-accel-buffering"] == "no"
    assert headers["cache-control"] == "no-store"
    assert wire.decode() == (GOLDEN / f"{name}.sse").read_text(encoding="utf-8")


async def test_logprobs_are_sent_without_text() -> None:
    """A token that shows nothing yet still reports its log-probability."""
    silent = Delta("", (1,), (TokenLogprob(1, b"\xe2", -0.25),))
    exchange = Exchange(build(Script(pieces=(silent,))).app, chat(stream=True, logprobs=True))

    await exchange.start()
    await exchange.piece()
    chunk = json.loads((await exchange.piece()).removeprefix(b"data: "))

    assert chunk["choices"][0]["delta"] == {"content": ""}
    assert chunk["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.25
    await exchange.end()


async def test_first_bytes_do_not_wait_for_tokens() -> None:
    """Headers and the role go out as soon as the request is accepted; each token as it comes."""
    served_app = build(Script(pieces=("a", "b"), pause_before=1))
    exchange = Exchange(served_app.app, chat(stream=True))

    assert (await exchange.start())[0] == 200
    assert b'"role":"assistant"' in await exchange.piece()
    assert b'"content":"a"' in await exchange.piece()
    served_app.backend.resume()
    assert b'"content":"b"' in await exchange.piece()
    await exchange.end()


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (ContextLengthExceeded("too long", param="messages"), 400, "context_length_exceeded"),
        (Overloaded("full", retry_after_s=2.5), 503, "engine_overloaded"),
        (WaitTooLong("slow", retry_after_s=2.5), 503, "engine_overloaded"),
        (TenantQueueFull("your own", retry_after_s=2.5), 429, "rate_limit_exceeded"),
        (DeadlineExceeded("late"), 504, "deadline_exceeded"),
    ],
)
@pytest.mark.parametrize("n", [1, 2])
async def test_refusal_is_an_http_error(refusal: BackendError, status: int, code: str, n: int) -> None:
    """A stream that is refused ahead of its first byte fails like any request."""
    served_app = build(Script(refusal=refusal))
    exchange = Exchange(served_app.app, chat(stream=True, n=n))

    found, headers = await exchange.start()
    body = json.loads(await exchange.rest())

    assert found == status
    assert body["error"]["code"] == code
    assert headers.get("retry-after") == ("3" if status in (429, 503) else None)
    assert headers.get("retry-after-ms") == ("2500" if status in (429, 503) else None)
    assert served_app.metric("hostelry_requests_total", outcome="refused") == 1
    assert served_app.metric("hostelry_refused_total", model="demo") == 1


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Script(failure=("engine_failed", "the engine died")), "engine_failed"),
        (Script(failure=("deadline_exceeded", "late")), "deadline_exceeded"),
        (Script(breaks_off=True), "engine_failed"),
        (Script(fault=ValueError("inside")), None),
    ],
)
async def test_failure_after_the_first_byte(script: Script, code: str | None) -> None:
    """One error event, then the end; no `[DONE]`, nothing that looks finished."""
    served_app = build(script)
    exchange = Exchange(served_app.app, chat(stream=True))

    await exchange.start()
    wire = (await exchange.rest()).decode()

    *_, last, end = wire.split("\n\n")
    assert end == ""
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == code
    assert error["type"] == "server_error"
    assert "inside" not in wire
    assert "[DONE]" not in wire
    assert '"finish_reason":"' not in wire
    assert served_app.metric("hostelry_requests_total", outcome="failed") == 1


@pytest.mark.parametrize("n", [1, 2])
async def test_a_deadline_passes_amid_a_stream(n: int) -> None:
    """The stream keeps the tokens produced so far, then sends one error event; every choice ends, and those tokens are
    counted.
    """
    served_app = build(Script(pieces=("a", "b"), pause_before=1))
    exchange = Exchange(served_app.app, chat(stream=True, n=n, deadline_s=0.2))

    await exchange.start()
    wire = (await exchange.rest()).decode()

    *_, last, _ = wire.split("\n\n")
    assert wire.count('"content":"a"') == n
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    assert "[DONE]" not in wire
    assert served_app.backend.running == set()
    assert served_app.metric("hostelry_completion_tokens_total") == n


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("pause", [-1, 1])
async def test_client_that_leaves(stream: bool, n: int, pause: int) -> None:
    """Hanging up closes the backend's iterators at once, streamed or not, in the queue or in the midst."""
    served_app = build(Script(pieces=("a", "b", "c"), pause_before=pause))
    exchange = Exchange(served_app.app, chat(stream=stream, n=n))
    await served_app.backend.paused.wait()

    exchange.hang_up()
    await exchange.end()

    assert served_app.backend.running == set()
    assert len(served_app.backend.cancelled) == n
    assert served_app.metric("hostelry_requests_total", outcome="cancelled") == 1
    assert served_app.metric("hostelry_prompt_tokens_total") == (7 if pause == 1 else 0)
    assert served_app.metric("hostelry_requests_in_flight") == 0
    assert served_app.services.drain.num_open == 0


async def test_client_that_leaves_is_billed_what_it_got() -> None:
    """Tokens that were handed over are counted, though no `Done` came."""
    served_app = build(Script(pieces=("a", "b", "c"), pause_before=2))
    exchange = Exchange(served_app.app, chat(stream=True))
    await served_app.backend.paused.wait()

    exchange.hang_up()
    await exchange.end()

    assert served_app.metric("hostelry_completion_tokens_total", tenant="acme", model="demo") == 2


async def test_keep_alive() -> None:
    """An idle stream sends keep-alive comments."""
    served_app = build(Script(pieces=("a",), pause_before=0), keep_alive_s=0.01)
    exchange = Exchange(served_app.app, chat(stream=True))

    await exchange.start()
    await exchange.piece()
    assert await exchange.piece() == b": keep-alive\n\n"
    served_app.backend.resume()
    assert (await exchange.rest()).endswith(b"data: [DONE]\n\n")


async def test_slow_reader_holds_the_backend_back() -> None:
    """No further event is fetched while the client reads nothing."""
    served_app = build(Script(pieces=tuple("abcdefgh"), pause_before=0))
    exchange = Exchange(served_app.app, chat(stream=True))
    await served_app.backend.paused.wait()

    exchange.held.clear()
    served_app.backend.resume()
    await exchange.blocked.wait()

    assert served_app.backend.num_deltas == 1
    exchange.held.set()
    await exchange.end()
    assert served_app.backend.num_deltas == 8


async def test_reader_that_takes_nothing_is_dropped() -> None:
    """A request whose client reads nothing ends as cancelled once the write timeout passes."""
    served_app = build(Script(pieces=("a", "b"), pause_before=0), keep_alive_s=0.01, write_timeout_s=0.02)
    exchange = Exchange(served_app.app, chat(stream=True))
    await served_app.backend.paused.wait()

    exchange.held.clear()
    served_app.backend.resume()
    await exchange.end()

    assert served_app.backend.running == set()
    assert served_app.metric("hostelry_requests_total", outcome="cancelled") == 1


async def test_tokens_are_counted_once_when_done(served_app: ServedApp) -> None:
    """Prompt and completion tokens of a stream equal its usage, by tenant and model."""
    exchange = Exchange(served_app.app, chat(stream=True, stream_options={"include_usage": True}))
    await exchange.start()

    events = (await exchange.rest()).decode().split("\n\n")

    usage = json.loads(events[-3].removeprefix("data: "))["usage"]
    labels = {"model": "demo", "tenant": "acme"}
    assert served_app.metric("hostelry_prompt_tokens_total", **labels) == usage["prompt_tokens"] == 7
    assert served_app.metric("hostelry_completion_tokens_total", **labels) == usage["completion_tokens"] == 2
    assert served_app.metric("hostelry_requests_total", **labels, outcome="completed") == 1
    assert served_app.metric("hostelry_time_to_first_token_seconds_count") == 1
    assert served_app.metric("hostelry_inter_token_latency_seconds_count") == 1
    assert served_app.metric("hostelry_request_duration_seconds_count") == 1
