"""Completions of token ids over HTTP, as the client's clock sees them."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from backends.testing.models import ModelSizes
from benchmarks.record import rate
from gateway.bench.load import BenchFailed, Target

_FEW_SPECIALS = 300


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    first_s: float
    tokens: int
    cached_tokens: int


class Prompts:
    """Prompts of random ids; no two share a prefix."""

    def __init__(self, sizes: ModelSizes) -> None:
        self._ordinary = range(_FEW_SPECIALS, sizes.vocab_size)
        self._random = random.Random()

    def draw(self, length: int) -> list[int]:
        return self._random.choices(self._ordinary, k=length)


async def ask(session: aiohttp.ClientSession, target: Target, prompt: list[int], *, tokens: int) -> Answer:
    """Request one whole completion, streamed. Raises `BenchFailed`."""
    start, first_s = time.perf_counter(), 0.0
    usage: dict[str, Any] = {}  # Any: JSON as it came over the wire
    async for event in events(session, target, prompt, tokens=tokens):
        first_s = first_s or time.perf_counter() - start
        usage = json.loads(event).get("usage") or usage
    if not usage:
        raise BenchFailed(f"{target.label}: the stream contains no usage, so its tokens cannot be counted")
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Answer(first_s=first_s, tokens=usage["completion_tokens"], cached_tokens=cached)


async def events(
    session: aiohttp.ClientSession, target: Target, prompt: list[int], *, tokens: int
) -> AsyncIterator[bytes]:
    """Objects of a stream as they come, undecoded. Raises `BenchFailed` if the request is rejected."""
    body: dict[str, object] = {"model": target.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    async with session.post(f"{target.url}/completions", json=body, headers=target.headers) as response:
        if response.status != 200:
            raise BenchFailed(f"{target.label}: HTTP {response.status}: {(await response.text())[:300]}")
        async for line in response.content:
            if line.startswith(b"data: {"):
                yield line[6:]


async def tokens_per_s(
    session: aiohttp.ClientSession, targets: list[Target], prompts: list[list[int]], *, tokens: int
) -> float:
    """Tokens a second of all prompts at once; targets take turns."""
    start = time.perf_counter()
    asked = [
        ask(session, targets[number % len(targets)], prompt, tokens=tokens) for number, prompt in enumerate(prompts)
    ]
    answers = await asyncio.gather(*asked)
    return rate(sum(answer.tokens for answer in answers) / (time.perf_counter() - start), "prompts at once")


async def engine_total(session: aiohttp.ClientSession, target: Target, name: str) -> float:
    """A counter of the model's engine, from `/metrics`."""
    async with session.get(target.url.removesuffix("/v1") + "/metrics") as response:
        text = await response.text()
    found = re.search(rf'^hostelry_engine_{name}_total{{model="{target.model}"}} (\S+)$', text, re.MULTILINE)
    if found is None:
        raise BenchFailed(f"/metrics has no hostelry_engine_{name}_total of {target.model}")
    return float(found.group(1))
