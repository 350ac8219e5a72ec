from __future__ import annotations

import httpx
import pytest
import respx

from gateway.commands.chat import ChatFailed, Turn, first_model, stream_answer

URL = "http://127.0.0.1:8000"
QUESTION = [Turn("user", "capital of France")]


@pytest.fixture
def client() -> httpx.Client:
    return httpx.Client(base_url=URL)


@respx.mock
def test_pieces_arrive_in_order(client: httpx.Client) -> None:
    """Role, text and usage chunks are told apart."""
    lines = [
        'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}',
        'data: {"choices":[{"delta":{"content":"Par"}}]}',
        ": keep-alive",
        'data: {"choices":[{"delta":{"content":"is"}}]}',
        'data: {"choices":[],"usage":{}}',
        "data: [DONE]",
    ]
    respx.post(f"{URL}/v1/chat/completions").respond(text="\n\n".join(lines) + "\n\n")

    assert "".join(stream_answer(client, "m", QUESTION, {})) == "Paris"


@respx.mock
def test_a_stream_without_done_is_an_error(client: httpx.Client) -> None:
    """A broken stream is never shown as an answer."""
    respx.post(f"{URL}/v1/chat/completions").respond(text='data: {"choices":[{"delta":{"content":"Par"}}]}\n\n')

    with pytest.raises(ChatFailed, match="ended before"):
        list(stream_answer(client, "m", QUESTION, {}))


@respx.mock
def test_an_error_event_is_told_in_the_servers_words(client: httpx.Client) -> None:
    """Mid-stream errors surface."""
    respx.post(f"{URL}/v1/chat/completions").respond(text='data: {"error":{"message":"engine died"}}\n\n')

    with pytest.raises(ChatFailed, match="engine died"):
        list(stream_answer(client, "m", QUESTION, {}))


@respx.mock
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error":{"message":"Incorrect API key"}}', "Incorrect API key"),
        ("<html>", "HTTP 401 without an error object"),
    ],
)
def test_a_refusal_is_told(client: httpx.Client, body: str, message: str) -> None:
    """The status alone never reaches the person."""
    respx.get(f"{URL}/v1/models").respond(401, text=body)

    with pytest.raises(ChatFailed, match=message):
        first_model(client)
