"""`/v1/completions`."""

from __future__ import annotations

import httpx
import pytest

from backends.generation import Delta, GenerateRequest, TextPrompt, TokenLogprob, TokenPrompt
from backends.testing.backend import Script
from tests.gateway.api.conftest import ServedApp, build, client_of

PATH = "/v1/completions"


def _body(prompt: object, **fields: object) -> dict[str, object]:
    return {"model": "demo", "prompt": prompt, **fields}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [TextPrompt("a")]),
        (["a", "b"], [TextPrompt("a"), TextPrompt("b")]),
        ([1, 2], [TokenPrompt((1, 2))]),
        ([[1], [2, 3]], [TokenPrompt((1,)), TokenPrompt((2, 3))]),
    ],
)
async def test_prompts(
    prompt: object, expected: list[object], client: httpx.AsyncClient, served_app: ServedApp
) -> None:
    """A text, texts, ids or lists of ids: one choice each, in order, 16 tokens unless said."""
    answer = (await client.post(PATH, json=_body(prompt))).json()

    assert [request.prompt for request in served_app.backend.requests] == expected
    assert {request.max_tokens for request in served_app.backend.requests} == {16}
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    assert answer["object"] == "text_completion"
    assert answer["usage"]["prompt_tokens"] == 7 * len(expected)


async def test_prompts_times_n(client: httpx.AsyncClient) -> None:
    """Choices of one prompt are adjacent and bill it once."""
    answer = (await client.post(PATH, json=_body(["a", "b"], n=2, best_of=2, echo=True))).json()

    assert [choice["text"][0] for choice in answer["choices"]] == ["a", "a", "b", "b"]
    assert answer["usage"]["prompt_tokens"] == 14


async def test_echo_streamed_equals_whole(client: httpx.AsyncClient) -> None:
    """The prompt comes first, as a chunk of its own."""
    whole = (await client.post(PATH, json=_body("The", echo=True))).json()["choices"][0]["text"]
    streamed = (await client.post(PATH, json=_body("The", echo=True, stream=True))).text

    assert whole == "TheHello world"
    assert streamed.index('"text":"The"') < streamed.index('"text":"Hello"')


async def test_scored_prompt() -> None:
    """The prompt's tokens come first with `echo` and `logprobs`, the very first without a number; streamed the same."""
    scores = (TokenLogprob(1, b"a", None), TokenLogprob(2, b"b", -0.5, ((3, b"c", -0.25),)))
    served_app = build(Script(prompt_text="ab", pieces=(Delta("", logprobs=scores),)))
    async with client_of(served_app) as client:
        whole = (await client.post(PATH, json=_body("ab", echo=True, logprobs=1, max_tokens=4))).json()["choices"][0]
        streamed = (await client.post(PATH, json=_body("ab", echo=True, logprobs=1, max_tokens=4, stream=True))).text

    assert [request.prompt_logprobs for request in served_app.backend.requests] == [1, 1]
    assert whole["text"] == "ab"
    assert whole["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {"c": -0.25}],
        "text_offset": [0, 1],
    }
    assert '"token_logprobs":[null,-0.5]' in streamed


async def test_no_tokens_at_all(client: httpx.AsyncClient) -> None:
    """`max_tokens: 0` computes the prompt and nothing else."""
    answer = (await client.post(PATH, json=_body("a", max_tokens=0, echo=True))).json()

    assert answer["choices"][0]["text"] == "a"
    assert answer["usage"]["completion_tokens"] == 0


async def test_logprobs() -> None:
    """Parallel lists; offsets count characters even where tokens cut them."""
    tokens = [(b"a", "a"), (b"\xe2\x82", ""), (b"\xac", "€"), (b"b", "b")]
    pieces = tuple(
        Delta(text, (index,), (TokenLogprob(index, utf8, -1.0, ((9, b"z", -2.0),)),))
        for index, (utf8, text) in enumerate(tokens)
    )
    served_app = build(Script(pieces=pieces))
    async with client_of(served_app) as client:
        whole = (await client.post(PATH, json=_body("x", logprobs=1))).json()["choices"][0]["logprobs"]
        none = (await client.post(PATH, json=_body("x", logprobs=0))).json()["choices"][0]["logprobs"]

    assert whole == {
        "tokens": ["a", "bytes:\\xe2\\x82", "bytes:\\xac", "b"],
        "token_logprobs": [-1.0] * 4,
        "top_logprobs": [{"z": -2.0}] * 4,
        "text_offset": [0, 1, 1, 2],
    }
    assert none["top_logprobs"] is None


async def test_one_refusal_refuses_all() -> None:
    """A request with several prompts is refused if the backend refuses one of them; the others do not go on."""
    from backends.errors import ContextLengthExceeded

    def script(request: GenerateRequest) -> Script:
        too_long = ContextLengthExceeded("too long", param="prompt") if request.prompt == TextPrompt("b") else None
        return Script(refusal=too_long, pause_before=0)

    served_app = build(script)
    async with client_of(served_app) as client:
        response = await client.post(PATH, json=_body(["a", "b", "c"]))

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert served_app.backend.running == set()
    assert served_app.metric("hostelry_requests_total", outcome="refused") == 1
    assert served_app.metric("hostelry_requests_in_flight") == 0
