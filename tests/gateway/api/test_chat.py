"""`/v1/chat/completions`, answered whole."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from backends.generation import ChatPrompt, Delta, Message, Sampling, TokenLogprob
from backends.testing.backend import Script
from gateway.api.convert import choice_seed
from tests.gateway.api.conftest import ServedApp, build, chat, client_of

PATH = "/v1/chat/completions"


async def test_whole_answer(client: httpx.AsyncClient) -> None:
    """The body is OpenAI's chat completion, with usage."""
    answer = (await client.post(PATH, json=chat())).json()

    assert answer["object"] == "chat.completion"
    assert answer["model"] == "demo"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["total_tokens"] == 9


async def test_defaults_and_null_are_the_same(client: httpx.AsyncClient, served_app: ServedApp) -> None:
    """`null` means the default for every optional field."""
    optional = ("max_tokens", "temperature", "top_p", "n", "stop", "stream", "seed", "logit_bias", "logprobs", "top_k")
    nulls = dict.fromkeys((*optional, "tools", "response_format", "stream_options"))

    await client.post(PATH, json=chat())
    await client.post(PATH, json=chat(**nulls))

    first, second = served_app.backend.requests
    assert first.sampling == second.sampling == Sampling()
    assert first.max_tokens is second.max_tokens is None


async def test_every_field_reaches_the_backend(client: httpx.AsyncClient, served_app: ServedApp) -> None:
    """Wire names become ours, values unchanged."""
    fields: dict[str, Any] = {  # Any: keywords of `Sampling`
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": -1,
        "frequency_penalty": 1,
        "seed": -(2**63),
        "logit_bias": {"5": -100},
    }
    await client.post(
        PATH, json=chat(**fields, logprobs=True, top_logprobs=2, max_completion_tokens=9, stop="x", ignore_eos=True)
    )

    (request,) = served_app.backend.requests
    fields |= {"logit_bias": {5: -100.0}, "logprobs": 2}
    assert request.sampling == Sampling(**fields)
    assert (request.max_tokens, request.stop, request.ignore_eos, request.share.tenant) == (9, ("x",), True, "acme")


async def test_top_k_minus_one_is_off(client: httpx.AsyncClient, served_app: ServedApp) -> None:
    """vLLM's spelling of "no limit" is understood."""
    await client.post(PATH, json=chat(top_k=-1))

    assert served_app.backend.requests[0].sampling.top_k == 0


async def test_messages_become_text(client: httpx.AsyncClient, served_app: ServedApp) -> None:
    """Text parts are joined by lines, and `developer` is what templates call `system`."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": "Ok", "tool_calls": [], "refusal": None},
        {"role": "user", "content": parts, "name": "bob"},
    ]
    await client.post(PATH, json={"model": "demo", "messages": messages})

    assert served_app.backend.requests[0].prompt == ChatPrompt(
        (
            Message(role="system", content="Be brief."),
            Message(role="assistant", content="Ok"),
            Message(role="user", content="a\nb", name="bob"),
        )
    )


async def test_n_choices() -> None:
    """Each choice is a request of its own with its own seed; the prompt is billed once."""
    served_app = build(lambda request: Script(pieces=(f"seed {request.sampling.seed}",)))
    async with client_of(served_app) as client:
        answer = (await client.post(PATH, json=chat(n=3, seed=7))).json()

    seeds = [choice_seed(7, choice) for choice in range(3)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    assert [choice["message"]["content"] for choice in answer["choices"]] == [f"seed {seed}" for seed in seeds]
    assert answer["usage"]["prompt_tokens"] == 7
    assert answer["usage"]["completion_tokens"] == 3
    assert len({request.request_id for request in served_app.backend.requests}) == 3


async def test_logprobs() -> None:
    """Tokens come with bytes and alternatives; half a character is spelt out, minus infinity becomes -9999."""
    half = TokenLogprob(1, b"\xe2\x82", -0.5, ((1, b"\xe2\x82", -0.5), (2, b"a", float("-inf"))))
    served_app = build(Script(pieces=(Delta("", (1,), (half,)), Delta("€", (3,), (TokenLogprob(3, b"\xac", -0.1),)))))
    async with client_of(served_app) as client:
        answer = (await client.post(PATH, json=chat(logprobs=True, top_logprobs=2))).json()

    first, second = answer["choices"][0]["logprobs"]["content"]
    assert first["token"] == "bytes:\\xe2\\x82"
    assert first["bytes"] == [0xE2, 0x82]
    assert first["top_logprobs"][1] == {"token": "a", "logprob": -9999.0, "bytes": [97]}
    assert second["logprob"] == -0.1


async def test_unknown_fields_are_named(client: httpx.AsyncClient) -> None:
    """Fields without effect are ignored and listed in one header; odd names cannot break it."""
    response = await client.post(
        PATH, json=chat(**{"verbosity": "low", "api_base": "http://x", "a\r\nb": 1, "user": "me"})
    )

    assert response.status_code == 200
    assert response.headers["x-hostelry-ignored"] == "api_base,verbosity"


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (("engine_failed", "the engine died"), 500),
        (("server_shutdown", "closing"), 503),
        (("upstream_timeout", "late"), 504),
    ],
)
async def test_failed_becomes_an_http_error(failure: tuple[str, str], status: int) -> None:
    """A whole answer that cannot be finished is no answer; the backend's code decides the status."""
    served_app = build(Script(failure=failure))
    async with client_of(served_app) as client:
        response = await client.post(PATH, json=chat())

    assert response.status_code == status
    assert response.json()["error"] == {
        "message": failure[1],
        "type": "server_error",
        "param": None,
        "code": failure[0],
    }
    outcome = "shutdown" if failure[0] == "server_shutdown" else "failed"
    assert served_app.metric("hostelry_requests_total", outcome=outcome) == 1
    assert served_app.metric("hostelry_completion_tokens_total") == 2


async def test_unexpected_error_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A bug becomes a 500 with the request id; its traceback is in the log, once."""
    served_app = build(Script(fault=ZeroDivisionError("secret detail at 0xdeadbeef")))
    async with client_of(served_app) as client:
        response = await client.post(PATH, json=chat(), headers={"x-request-id": "my-id"})

    assert response.status_code == 500
    assert "my-id" in response.json()["error"]["message"]
    assert "secret" not in response.text
    assert [record.getMessage() for record in caplog.records] == ["request my-id failed unexpectedly"]


async def test_backend_that_breaks_off() -> None:
    """No `Done` means no answer, never a text that looks finished."""
    served_app = build(Script(breaks_off=True))
    async with client_of(served_app) as client:
        response = await client.post(PATH, json=chat())

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_failed"


@pytest.mark.parametrize(
    ("path", "body"), [(PATH, chat(n=2)), ("/v1/completions", {"model": "demo", "prompt": ["a", "b"]})]
)
async def test_a_deadline_counts_from_arrival(
    client: httpx.AsyncClient, served_app: ServedApp, path: str, body: dict[str, object]
) -> None:
    """Every choice must be there by then; without the field there is none."""
    start = time.monotonic()
    await client.post(path, json=body)
    await client.post(path, json=body | {"deadline_s": 40})

    *free, first, second = served_app.backend.requests
    assert [request.deadline_at for request in free] == [None, None]
    assert first.deadline_at == second.deadline_at
    assert first.deadline_at is not None
    assert start + 40 <= first.deadline_at <= time.monotonic() + 40


async def test_an_answer_that_is_late_is_a_504() -> None:
    """Nothing was sent yet, so the status tells; sending it again would not help."""
    async with client_of(build(Script(failure=("deadline_exceeded", "late")))) as client:
        response = await client.post(PATH, json=chat())

    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
