"""Command `hostelry chat`: a chat in the terminal, over the same HTTP as every other client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import click
import httpx
import msgspec

from gateway.process.data_dir import default_data_dir, stored_key


class Turn(msgspec.Struct, frozen=True):
    """One message of the chat."""

    role: str
    content: str


class ChatFailed(Exception):
    """Raised when the server rejected the request or broke off; the message is the server's own."""


@click.command("chat")
@click.argument("question", required=False)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Server to connect to.")
@click.option("--api-key", help="API key; default: the key that the first start stored in the data directory.")
@click.option("--model", help="Model; default: the first that the server lists.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=None, help="Data directory that holds the stored key."
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=None)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
def command(
    question: str | None,
    url: str,
    api_key: str | None,
    model: str | None,
    data_dir: Path | None,
    max_tokens: int | None,
    temperature: float,
) -> None:
    """Ask QUESTION once, or chat until end of input."""
    key = api_key or stored_key(data_dir or default_data_dir())
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=httpx.Timeout(10, read=300)) as client:
            model = model or first_model(client)
            extra = {"temperature": temperature} | ({"max_tokens": max_tokens} if max_tokens else {})
            _converse(client, model, question, extra)
    except httpx.HTTPError as error:
        raise click.ClickException(f"no answer from {url}: {error}; is `hostelry serve` running there?") from None
    except ChatFailed as error:
        raise click.ClickException(str(error)) from None


def first_model(client: httpx.Client) -> str:
    """Id of the first model that the key may use. Raises `ChatFailed`."""
    response = client.get("/v1/models")
    if response.status_code != 200:
        raise ChatFailed(error_text(response))
    models = response.json()["data"]
    if not models:
        raise ChatFailed("the server lists no model for this key")
    return str(models[0]["id"])


def stream_answer(client: httpx.Client, model: str, turns: list[Turn], extra: dict[str, float]) -> Iterator[str]:
    """Yield the pieces of text as they arrive. Raises `ChatFailed` on an error object or a stream without end."""
    body = {"model": model, "messages": msgspec.to_builtins(turns), "stream": True, **extra}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            response.read()
            raise ChatFailed(error_text(response))
        for line in response.iter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data: "):
                yield _chunk_text(json.loads(line[6:]))
    raise ChatFailed("the stream ended before the answer did")


def error_text(response: httpx.Response) -> str:
    """Message of an error response, whatever its body looks like."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code} without an error object"


def _chunk_text(chunk: dict[str, object]) -> str:
    error = chunk.get("error")
    if isinstance(error, dict):
        raise ChatFailed(str(error.get("message")))
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices:
        return ""
    return str(choices[0]["delta"].get("content") or "")


def _converse(client: httpx.Client, model: str, question: str | None, extra: dict[str, float]) -> None:
    turns: list[Turn] = []
    for text in [question] if question else _questions():
        turns.append(Turn("user", text))
        turns.append(Turn("assistant", _show(stream_answer(client, model, turns, extra))))


def _questions() -> Iterator[str]:
    while True:
        try:
            text = click.prompt("you", prompt_suffix="> ", err=True)
        except click.Abort:
            return
        yield text


def _show(pieces: Iterator[str]) -> str:
    """Print pieces as they come, then the speed, dim; return the whole text."""
    start, first, answer = time.monotonic(), None, ""
    for piece in pieces:
        first = first or (time.monotonic() if piece else None)
        answer += piece
        click.echo(piece, nl=False)
    click.echo()
    if first is not None:
        took = time.monotonic() - start
        click.secho(f"first token {1000 * (first - start):.0f} ms, all {took:.2f} s", dim=True, err=True)
    return answer
