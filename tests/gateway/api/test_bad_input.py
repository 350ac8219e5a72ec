"""Bad bodies: the status, the field at fault, and nothing of the insides."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.gateway.api.asgi import Connection, Exchange, scope_of
from tests.gateway.api.conftest import ServedApp, build, chat

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LEAKS = re.compile(r"Traceback| at 0x[0-9a-f]+|site-packages|\.py\", line|msgspec")
_BODY = json.dumps(chat()).encode()

BROKEN: dict[str, bytes] = {
    "empty": b"",
    "text": b"not JSON",
    "half": _BODY[:-5],
    "array": b"[]",
    "null": b"null",
    "number": b"1",
    "string": b'"x"',
    "trailing": _BODY + b"{}",
    "byte order mark": b"\xef\xbb\xbf" + _BODY,
    "invalid UTF-8": _BODY.replace(b"Hi", b"\xff\xfe"),
    "invalid UTF-8 in a key": _BODY.replace(b'"model"', b'"\xff": 1, "model"'),
    "lone surrogate": _BODY.replace(b"Hi", b"\\ud800"),
    "deep arrays": b"[" * 100_000,
    "deep arrays in an unknown field": _BODY[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep tools": _BODY[:-1] + b', "tools": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NaN": _BODY[:-1] + b', "temperature": NaN}',
    "Infinity": _BODY[:-1] + b', "temperature": Infinity}',
}

BAD_VALUES: list[tuple[str, object, str]] = [
    ("model", None, "model"),
    ("model", 5, "model"),
    ("messages", None, "messages"),
    ("messages", "Hi", "messages"),
    ("messages", [], "messages"),
    ("messages", ["Hi"], "messages[0]"),
    ("messages", [{"role": "user", "content": "x"}] * 4097, "messages"),
    ("messages", [{"content": "Hi"}], "messages[0].role"),
    ("messages", [{"role": "user"}], "messages[0].content"),
    ("messages", [{"role": "user", "content": None}], "messages[0].content"),
    ("messages", [{"role": "user", "content": 7}], "messages[0].content"),
    ("messages", [{"role": "user", "content": []}], "messages[0].content"),
    ("messages", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ("messages", [{"role": "wizard", "content": "Hi"}], "messages[0].role"),
    ("max_tokens", 0, "max_tokens"),
    ("max_tokens", -1, "max_tokens"),
    ("max_tokens", 1.5, "max_tokens"),
    ("max_tokens", True, "max_tokens"),
    ("max_tokens", "5", "max_tokens"),
    ("max_tokens", 2**70, "max_tokens"),
    ("max_completion_tokens", 0, "max_completion_tokens"),
    ("temperature", -0.1, "temperature"),
    ("temperature", 2.1, "temperature"),
    ("temperature", "hot", "temperature"),
    ("top_p", 0, "top_p"),
    ("top_p", 1.01, "top_p"),
    *[("n", value, "n") for value in (0, -1, 1.5, "2", 9, 10**6, 2**31, 10**18)],
    ("stop", 5, "stop"),
    ("stop", "", "stop"),
    ("stop", ["x", ""], "stop[1]"),
    ("stop", ["x"] * 17, "stop"),
    ("stream", "yes", "stream"),
    ("stream_options", {"include_usage": True}, "stream_options"),
    ("stream_options", {"include_usage": 1}, "stream_options.include_usage"),
    ("seed", 2**63, "seed"),
    ("seed", 0.5, "seed"),
    ("presence_penalty", 2.5, "presence_penalty"),
    ("frequency_penalty", -2.5, "frequency_penalty"),
    ("repetition_penalty", 0, "repetition_penalty"),
    ("min_p", 1.1, "min_p"),
    ("top_k", -2, "top_k"),
    ("deadline_s", 0, "deadline_s"),
    ("deadline_s", 86_401, "deadline_s"),
    ("deadline_s", "soon", "deadline_s"),
    ("logit_bias", {"a": 1}, "logit_bias"),
    ("logit_bias", {"1": 101}, "logit_bias[...]"),
    ("logit_bias", {"-1": 1}, "logit_bias"),
    ("logit_bias", {str(token): 1 for token in range(1025)}, "logit_bias"),
    ("logprobs", 3, "logprobs"),
    ("top_logprobs", 21, "top_logprobs"),
    ("top_logprobs", 2, "top_logprobs"),
    ("ignore_eos", "no", "ignore_eos"),
    ("speculative", True, "speculative"),
    ("metadata", {str(number): "x" for number in range(65)}, "metadata"),
    ("service_tier", "flex", "service_tier"),
]

UNSUPPORTED: list[tuple[str, object, str]] = [
    ("tools", [{"type": "function", "function": {"name": "f"}}], "tools"),
    ("tools", "x", "tools"),
    ("tool_choice", "required", "tool_choice"),
    ("functions", [{"name": "f"}], "functions"),
    ("function_call", {"name": "f"}, "function_call"),
    ("response_format", {"type": "json_object"}, "response_format"),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {"pattern": "foo**"}}}, "response_format"),
    ("modalities", ["text", "audio"], "modalities"),
    ("audio", {"voice": "x"}, "audio"),
    ("store", True, "store"),
    ("store", 1, "store"),
    ("guided_regex", "foo**", "guided_regex"),
    ("grammar", "root ::= x", "grammar"),
    ("chat_template", "{{ 7 * 7 }}", "chat_template"),
    ("chat_template_kwargs", {"tokenize": True}, "chat_template_kwargs"),
    ("min_tokens", 5, "min_tokens"),
    ("prompt_embeds", "gASV", "prompt_embeds"),
    ("speculative", {"enabled": True}, "speculative.enabled"),
    ("messages", [{"role": "tool", "content": "x", "tool_call_id": "1"}], "messages[0].role"),
    ("messages", [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}], "messages[0].tool_calls"),
    ("messages", [{"role": "assistant", "content": "x", "audio": {"id": "1"}}], "messages[0].audio"),
    (
        "messages",
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        "messages[0].content[0].type",
    ),
    ("messages", [{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0].type"),
]

HARMLESS: list[tuple[str, object]] = [
    ("tools", []),
    ("tool_choice", "none"),
    ("response_format", {"type": "text"}),
    ("modalities", ["text"]),
    ("store", False),
    ("service_tier", "auto"),
    ("parallel_tool_calls", True),
    ("user", "u"),
    ("safety_identifier", "s"),
    ("prompt_cache_key", "k"),
    ("metadata", {"a": "b"}),
    ("reasoning_effort", "none"),
    ("speculative", {"enabled": False}),
    ("logprobs", False),
    ("max_completion_tokens", 5),
    ("stop", []),
]

BAD_PROMPTS: list[object] = [
    None, 5, {}, [], [[]], [-1], [2**31], [2**70], [1.5], [1, "a"], [[1], "a"], [["a"]], [[1], 2],
    ["a"] * 17, [[1]] * 17,
]  # fmt: skip


@pytest.fixture(scope="module")
def built() -> ServedApp:
    return build()


@pytest.fixture
def served_app(built: ServedApp) -> Iterator[ServedApp]:
    """The same for all: a bad body leaves nothing behind for the next."""
    built.backend.requests.clear()
    yield built
    assert built.backend.running == set()
    assert built.services.drain.num_open == 0


def _error(response: httpx.Response, status: int) -> dict[str, str | None]:
    assert response.status_code == status, response.text[:300]
    assert response.headers["content-type"] == "application/json"
    assert not LEAKS.search(response.text), response.text[:300]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    return dict(error)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("name", BROKEN)
async def test_broken_json(name: str, path: str, client: httpx.AsyncClient) -> None:
    """A body that is no JSON object of sane depth is a 400 `invalid_json`."""
    error = _error(await client.post(path, content=BROKEN[name]), 400)

    assert error["code"] == "invalid_json"
    assert error["param"] is None


@pytest.mark.parametrize("literal", ["9" * 5000, "1e400", "1e2", "1.0"])
async def test_odd_numbers(literal: str, client: httpx.AsyncClient) -> None:
    """Numbers that JSON libraries would not write."""
    body = _BODY[:-1] + b', "max_tokens": ' + literal.encode() + b"}"

    assert _error(await client.post(CHAT, content=body), 400)["param"] == "max_tokens"


@pytest.mark.parametrize(("field", "value", "param"), BAD_VALUES)
async def test_bad_value(
    field: str, value: object, param: str, client: httpx.AsyncClient, served_app: ServedApp
) -> None:
    """A wrong value is a 400 whose `param` is the path of the field; the backend is not asked."""
    error = _error(await client.post(CHAT, json=chat(**{field: value})), 400)

    assert error["param"] == param
    assert param.split("[")[0] in str(error["message"])
    assert served_app.backend.requests == []


@pytest.mark.parametrize("field", ["model", "messages"])
async def test_missing_field(field: str, client: httpx.AsyncClient) -> None:
    """A required field is named when it is absent."""
    body = {name: value for name, value in chat().items() if name != field}

    error = _error(await client.post(CHAT, json=body), 400)

    assert error["param"] == field
    assert error["message"] == f"{field} is required"


@pytest.mark.parametrize(("field", "value", "param"), UNSUPPORTED)
async def test_unsupported(
    field: str, value: object, param: str, client: httpx.AsyncClient, served_app: ServedApp
) -> None:
    """Parameters that would change the meaning are refused, never ignored."""
    error = _error(await client.post(CHAT, json=chat(**{field: value})), 400)

    assert error["code"] == "unsupported_parameter"
    assert error["param"] == param
    assert served_app.backend.requests == []


@pytest.mark.parametrize(("field", "value"), HARMLESS)
async def test_harmless(field: str, value: object, client: httpx.AsyncClient) -> None:
    """Parameters that ask for nothing special are accepted without a warning."""
    response = await client.post(CHAT, json=chat(**{field: value}))

    assert response.status_code == 200, response.text
    assert "x-hostelry-ignored" not in response.headers


async def test_two_limits_that_differ(client: httpx.AsyncClient) -> None:
    """Both spellings of the limit may be given, if they agree."""
    differ = await client.post(CHAT, json=chat(max_tokens=1, max_completion_tokens=2))
    agree = await client.post(CHAT, json=chat(max_tokens=1, max_completion_tokens=1))

    assert _error(differ, 400)["param"] == "max_tokens"
    assert agree.status_code == 200


@pytest.mark.parametrize("prompt", BAD_PROMPTS, ids=lambda prompt: str(prompt)[:30])
async def test_bad_prompt(prompt: object, client: httpx.AsyncClient) -> None:
    """A prompt that is no text and no list of ids is a 400."""
    error = _error(await client.post(COMPLETIONS, json={"model": "demo", "prompt": prompt}), 400)

    assert str(error["param"]).startswith("prompt")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"stop_token_ids": [1]}, "stop_token_ids"),
    ],
)
async def test_unsupported_completion(fields: dict[str, object], param: str, client: httpx.AsyncClient) -> None:
    """The same rule for completions."""
    error = _error(await client.post(COMPLETIONS, json={"model": "demo", "prompt": "x"} | fields), 400)

    assert (error["code"], error["param"]) == ("unsupported_parameter", param)


@pytest.mark.parametrize("model", ["nope", "", "demo:x", "Demo", "demo\u0000", "x" * 10_000, "../demo", "{{7*7}}"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_unknown_model(model: str, path: str, client: httpx.AsyncClient) -> None:
    """404 with names that exist; a long name is not echoed whole."""
    error = _error(await client.post(path, json=chat(model=model) | {"prompt": "x"}), 404)

    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert len(str(error["message"])) < 500
    assert "49" not in str(error["message"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, 200),
        ({"content-type": "Application/JSON; charset=UTF-8"}, 200),
        ({"content-type": 'application/json; charset="utf-8"'}, 200),
        ({}, 200),
        ({"content-encoding": "identity"}, 200),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=" + "x" * 1_000_000}, 415),
        ({"content-type": ""}, 415),
        ({"content-encoding": "gzip"}, 415),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_media_type(headers: dict[str, str], status: int, client: httpx.AsyncClient) -> None:
    """Plain JSON in UTF-8 and nothing else, judged before the body is parsed."""
    response = await client.post(CHAT, content=_BODY, headers=headers)

    assert response.status_code == status, response.text[:300]
    assert status == 200 or response.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("length", ["many", "-1", "9" * 30])
async def test_odd_length(length: str, client: httpx.AsyncClient) -> None:
    """A length that is no length, should a server let it through."""
    response = await client.post(CHAT, content=_BODY, headers={"content-length": length})

    assert response.status_code in (400, 413)


async def test_declared_too_large() -> None:
    """More than the limit is a 413; what the client still sends is taken first, so that it reads the answer."""
    scope = scope_of(CHAT, headers={"authorization": "Bearer sk-acme-0123456789", "content-length": "5000"})
    connection = Connection(build(max_body_bytes=1024).app, scope)
    for _ in range(5):
        connection.say({"type": "http.request", "body": b"x" * 1000, "more_body": True})
    assert connection._from_app.empty()
    connection.say({"type": "http.request", "body": b"", "more_body": False})

    start, body = await connection.end()

    assert start["status"] == 413
    assert json.loads(body["body"])["error"]["code"] == "request_too_large"
    assert connection._to_app.empty()


@pytest.mark.parametrize("sizes", [[1000, 1000, 1000], [2000], [1024, 1]])
async def test_undeclared_too_large(sizes: list[int]) -> None:
    """The same for a body whose length comes out while it is read."""
    connection = Connection(build(max_body_bytes=1024).app, scope_of(CHAT))
    for position, size in enumerate(sizes):
        connection.say({"type": "http.request", "body": b"x" * size, "more_body": position < len(sizes) - 1})

    start, _ = await connection.end()

    assert start["status"] == 413
    assert connection._to_app.empty()


async def test_body_in_pieces(served_app: ServedApp) -> None:
    """A chunked body is put together."""
    connection = Connection(served_app.app, scope_of(CHAT))
    for byte in _BODY:
        connection.say({"type": "http.request", "body": bytes([byte]), "more_body": True})
    connection.say({"type": "http.request", "body": b"", "more_body": False})

    start, _ = await connection.end()

    assert start["status"] == 200


async def test_client_that_leaves_while_sending(served_app: ServedApp) -> None:
    """Half a body is not counted as a request."""
    connection = Connection(served_app.app, scope_of(CHAT))
    connection.say({"type": "http.request", "body": _BODY[:5], "more_body": True})
    connection.say({"type": "http.disconnect"})

    assert await connection.end() == []
    assert served_app.backend.requests == []


async def test_refused_stranger_with_a_body(served_app: ServedApp) -> None:
    """The body of a request without a key is discarded unread before the response."""
    exchange = Exchange(served_app.app, _BODY, headers={})

    status, _ = await exchange.start()

    assert status == 401
    assert exchange._to_app.empty()
    await exchange.end()
