"""Raw HTTP: one-off requests, and Server-Sent Events with the moment each one arrived."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

TIMEOUT = httpx.Timeout(300.0)
"""Limit against hanging, on any machine."""
TLS = ssl.create_default_context()
"""Never used on loopback, but httpx would load the certificates again for each request: 20 ms in every timing."""
Json = dict[str, Any]  # Any: JSON as it came over the wire


def headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def get(url: str, key: str | None = None) -> httpx.Response:
    return httpx.get(url, headers=headers(key), timeout=TIMEOUT, verify=TLS)


def post(url: str, body: Json, key: str | None) -> httpx.Response:
    return httpx.post(url, json=body, headers=headers(key), timeout=TIMEOUT, verify=TLS)


def post_ok(url: str, body: Json, key: str | None) -> Json:
    """The decoded answer; anything but 200 fails the test with what came instead."""
    response = post(url, body, key)
    assert response.status_code == 200, f"{response.status_code}: {response.text[:500]}"
    answer: Json = response.json()
    return answer


def ask(content: str, *, model: str = "demo", **extra: object) -> Json:
    """A chat body at temperature 0 unless `extra` says otherwise."""
    return {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0} | extra


def chat_text(answer: Json) -> str:
    text = answer["choices"][0]["message"]["content"]
    assert isinstance(text, str), answer
    return text


class Arrival(msgspec.Struct, frozen=True):
    """One event, in seconds since the request was sent. `payload` is what follows `data: `."""

    at: float
    payload: str

    @property
    def chunk(self) -> Json:
        decoded: Json = json.loads(self.payload)
        return decoded


class Stream(msgspec.Struct, frozen=True):
    """A whole stream as it was seen on the wire."""

    status: int
    headers: dict[str, str]
    raw: bytes
    arrivals: list[Arrival]
    ended: float

    @property
    def chunks(self) -> list[Json]:
        return [arrival.chunk for arrival in self.arrivals if arrival.payload != "[DONE]"]

    @property
    def text(self) -> str:
        return "".join(map(delta_text, self.chunks))

    @property
    def usage(self) -> Json | None:
        """Usage of the last chunk that carries one."""
        found = [chunk["usage"] for chunk in self.chunks if chunk.get("usage")]
        return found[-1] if found else None

    @property
    def finish_reasons(self) -> list[str]:
        reasons = [choice.get("finish_reason") for chunk in self.chunks for choice in chunk["choices"]]
        return [reason for reason in reasons if reason is not None]


def delta_text(chunk: Json) -> str:
    """New text of a chat or completion chunk; empty for the role and usage chunks."""
    if not chunk["choices"]:
        return ""
    choice: Json = chunk["choices"][0]
    return choice.get("text") or (choice.get("delta") or {}).get("content") or ""


def stream(url: str, body: Json, key: str | None) -> Stream:
    """Send with `stream: true` and read until the server closes the answer."""
    start = time.monotonic()
    raw = bytearray()
    arrivals: list[Arrival] = []
    request = {**body, "stream": True}
    with httpx.stream("POST", url, json=request, headers=headers(key), timeout=TIMEOUT, verify=TLS) as response:
        for piece in response.iter_raw():
            raw += piece
            arrivals += _completed(raw, len(arrivals), time.monotonic() - start)
        return Stream(response.status_code, dict(response.headers), bytes(raw), arrivals, time.monotonic() - start)


def _completed(raw: bytearray, seen: int, at: float) -> Iterator[Arrival]:
    """Events that the bytes so far complete beyond the first `seen`."""
    events = [event for event in bytes(raw).split(b"\n\n")[:-1] if event.startswith(b"data: ")]
    for event in events[seen:]:
        yield Arrival(at, event.removeprefix(b"data: ").decode("utf-8"))
