"""Random chat bodies: the answer is a completion or the error object, never a fault."""

from __future__ import annotations

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from e2e.harness.nonce import SEED
from e2e.harness.runners import ONE
from e2e.harness.running_server import Target
from e2e.harness.shape import assert_error_body, assert_no_leak
from e2e.harness.wire import Json, headers

pytestmark = ONE
CASES = 150
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: value == value)


def _mostly(good: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Sound four times out of five, so that deeper layers are reached too."""
    return st.integers(0, 4).flatmap(lambda draw: JUNK if draw == 0 else good)


MESSAGE = st.fixed_dictionaries(
    {"role": _mostly(st.sampled_from(["system", "user", "assistant"])), "content": _mostly(st.text(max_size=60))},
    optional={"name": _mostly(st.text(max_size=10)), "tool_calls": JUNK},
)
FIELDS: dict[str, st.SearchStrategy[object]] = {
    "temperature": _mostly(st.floats(0, 2)),
    "top_p": _mostly(st.floats(0.01, 1)),
    "top_k": _mostly(st.integers(0, 100)),
    "min_p": _mostly(st.floats(0, 1)),
    "n": _mostly(st.just(1)),
    "seed": _mostly(st.integers(0, 2**31)),
    "stop": _mostly(st.text(min_size=1, max_size=4) | st.lists(st.text(min_size=1, max_size=4), max_size=4)),
    "stream": _mostly(st.booleans()),
    "stream_options": _mostly(st.just({"include_usage": True})),
    "logprobs": _mostly(st.booleans()),
    "top_logprobs": _mostly(st.integers(0, 5)),
    "logit_bias": _mostly(st.dictionaries(st.integers(0, 500).map(str), st.floats(-100, 100), max_size=3)),
    "presence_penalty": _mostly(st.floats(-2, 2)),
    "frequency_penalty": _mostly(st.floats(-2, 2)),
    "repetition_penalty": _mostly(st.floats(0.5, 2)),
    "ignore_eos": _mostly(st.booleans()),
    "deadline_s": _mostly(st.floats(10, 600)),
    "response_format": _mostly(st.just({"type": "text"})),
    "tools": JUNK,
    "user": _mostly(st.text(max_size=10)),
}
BODY = st.fixed_dictionaries(
    {
        "model": _mostly(st.sampled_from(["demo", "random"])),
        "messages": _mostly(st.lists(MESSAGE, min_size=1, max_size=3)),
        "max_tokens": _mostly(st.integers(1, 4)).filter(lambda value: not isinstance(value, int) or value < 8),
    },
    optional=FIELDS,
)


def test_fuzzed_chat(target: Target) -> None:
    """150 bodies drawn by the nonce: 200 or 4xx, the error object always whole, no insides shown."""
    with httpx.Client(base_url=target.url, headers=headers(target.keys.acme), timeout=300) as client:

        @seed(SEED)
        @settings(
            max_examples=CASES,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(BODY)
        def send(body: Json) -> None:
            _check(client, body)

        send()
        assert client.get("/health/live").status_code == 200


def _check(client: httpx.Client, body: Json) -> None:
    try:
        response = client.post("/v1/chat/completions", json=body)
    except (ValueError, UnicodeEncodeError):
        return  # what this client cannot put into JSON (infinities, surrogates), `test_bad_input` sends as bytes
    assert response.status_code == 200 or 400 <= response.status_code < 500, f"{response.status_code} to {body}"
    assert response.headers.get("x-request-id"), body
    assert_no_leak(response.text)
    if response.status_code != 200:
        assert_error_body(response.text, response.json())
