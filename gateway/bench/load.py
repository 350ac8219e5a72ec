"""Streams completions from an OpenAI server and times them as a client sees them, with prompts of a given length."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

_TEXT = (
    "the quick import of a class method returns self and then yields value from each list item while reading data in "
    "this module for testing error path with open file as stream not none or default key"
)
_WORDS = _TEXT.split()
_SHORT, _LONG = 20, 120


class PromptMaker:
    """Makes prompts of about `tokens` tokens. No two share a prefix, so that no prefix cache helps."""

    def __init__(self, words_per_token: float, *, extra_tokens: int) -> None:
        self._words_per_token = words_per_token
        self._extra_tokens = extra_tokens
        self._random = random.Random()  # noqa: S311 - prompts need no secrets

    def prompt(self, tokens: int) -> str:
        count = max(1, round((tokens - self._extra_tokens) * self._words_per_token))
        words: list[str] = []
        while len(words) < count:  # each word as often as any other, so that lengths differ little
            words += self._random.sample(_WORDS, k=len(_WORDS))
        return " ".join(words[:count])


async def measured_maker(session: aiohttp.ClientSession, target: Target) -> PromptMaker:
    """Calibrate a `PromptMaker` with the server's token counts of two texts. Raises `BenchFailed`."""
    counts = {}
    maker = PromptMaker(1.0, extra_tokens=0)
    for words in (_SHORT, _LONG):
        answer = await complete(session, target, {"prompt": maker.prompt(words), "max_tokens": 1, "temperature": 0})
        counts[words] = int(answer["usage"]["prompt_tokens"])
    if counts[_LONG] <= counts[_SHORT]:
        raise BenchFailed(f"{target.label}: its usage.prompt_tokens does not grow with the prompt")
    words_per_token = (_LONG - _SHORT) / (counts[_LONG] - counts[_SHORT])
    return PromptMaker(words_per_token, extra_tokens=max(0, round(counts[_SHORT] - _SHORT / words_per_token)))


_TIMEOUT = aiohttp.ClientTimeout(total=600)


class BenchFailed(Exception):
    """Raised when a server rejected a request, broke off or sent nothing; the message names it and quotes it."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Server and model to measure. `url` ends in `/v1`."""

    label: str
    url: str
    model: str
    key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


class Shot(msgspec.Struct, frozen=True, kw_only=True):
    """Timing of one request: seconds from its start to each piece of text and to its end, and billed tokens."""

    arrivals_s: tuple[float, ...]
    total_s: float
    prompt_tokens: int
    tokens: int

    @property
    def first_s(self) -> float:
        return self.arrivals_s[0] if self.arrivals_s else self.total_s

    def tokens_between(self, start_s: float, end_s: float) -> float:
        """Tokens that came after `start_s` and not after `end_s`; a piece of text counts as its share of the tokens."""
        inside = sum(start_s < arrival <= end_s for arrival in self.arrivals_s)
        return inside * self.tokens / max(1, len(self.arrivals_s))


class Volley(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that started together, and the seconds until the last one ended."""

    shots: tuple[Shot, ...]
    wall_s: float

    @property
    def tokens_per_s(self) -> float:
        return sum(shot.tokens for shot in self.shots) / self.wall_s

    @property
    def decode_tokens_per_s(self) -> float:
        """Rate of all streams while all of them generate: no prompt is computed then. 0 if there was no such time."""
        start_s = max(shot.first_s for shot in self.shots)
        end_s = min(shot.arrivals_s[-1] if shot.arrivals_s else 0.0 for shot in self.shots)
        if end_s <= start_s:
            return 0.0
        return sum(shot.tokens_between(start_s, end_s) for shot in self.shots) / (end_s - start_s)


def new_session() -> aiohttp.ClientSession:
    """HTTP client without limits; must be closed. One connection per request, because servers close idle ones."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector, read_bufsize=1 << 20)


async def volley(session: aiohttp.ClientSession, target: Target, prompts: list[str], *, tokens: int) -> Volley:
    """Send all prompts at once. Raises `BenchFailed`."""
    start = time.perf_counter()
    shots = await asyncio.gather(*(_shot(session, target, prompt, tokens) for prompt in prompts))
    return Volley(shots=tuple(shots), wall_s=time.perf_counter() - start)


async def complete(session: aiohttp.ClientSession, target: Target, body: dict[str, object]) -> Any:  # Any: JSON
    """Request a whole completion. Raises `BenchFailed`."""
    try:
        async with session.post(
            f"{target.url}/completions", json={"model": target.model} | body, headers=target.headers
        ) as response:
            await _check(response, target)
            return await response.json()
    except aiohttp.ClientError as error:
        raise BenchFailed(f"{target.label}: no answer from {target.url}: {error}") from error


async def _shot(session: aiohttp.ClientSession, target: Target, prompt: str, tokens: int) -> Shot:
    body: dict[str, object] = {"model": target.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    start, usage = time.perf_counter(), None
    arrivals: list[float] = []
    try:
        async with session.post(f"{target.url}/completions", json=body, headers=target.headers) as response:
            await _check(response, target)
            async for event in _events(response, target):
                if any(choice.get("text") for choice in event.get("choices", ())):
                    arrivals.append(time.perf_counter() - start)
                usage = event.get("usage") or usage
    except aiohttp.ClientError as error:
        raise BenchFailed(f"{target.label}: no answer from {target.url}: {error}") from error
    end = time.perf_counter()
    if usage is None:
        raise BenchFailed(f"{target.label}: the stream contains no usage, so its tokens cannot be counted")
    return Shot(
        arrivals_s=tuple(arrivals),
        total_s=end - start,
        prompt_tokens=usage["prompt_tokens"],
        tokens=usage["completion_tokens"],
    )


async def _events(response: aiohttp.ClientResponse, target: Target) -> AsyncIterator[Any]:  # Any: JSON
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if event.get("error"):
            raise BenchFailed(f"{target.label}: {event['error'].get('message', event['error'])}")
        yield event
    raise BenchFailed(f"{target.label}: the stream ended before [DONE]")


async def _check(response: aiohttp.ClientResponse, target: Target) -> None:
    if response.status != 200:
        raise BenchFailed(f"{target.label}: HTTP {response.status}: {(await response.text())[:300]}")
