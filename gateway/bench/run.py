"""Runs a whole benchmark: our own server, speed or perplexity, the report."""

from __future__ import annotations

import asyncio
import math
import os

import msgspec
from rich.table import Table

from gateway.bench.kernels import read_bytes_per_s
from gateway.bench.load import BenchFailed, Target, complete, new_session
from gateway.bench.own_server import own_server
from gateway.bench.report import make_report, show, table_of
from gateway.bench.sweep import SweepShape, sweep
from gateway.process.terminal import console

_PIECE_CHARACTERS = 800
"""Texts are scored piece by piece, each from an empty context; small pieces fit every model."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Score of a text: `tokens` were predicted; `nats` is their mean negative log-probability."""

    tokens: int
    nats: float

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats)


async def score(target: Target, text: str) -> Score:
    """Score a text. Raises `BenchFailed`, also for a text without a token to predict."""
    total, count = 0.0, 0
    async with new_session() as session:
        for start in range(0, len(text), _PIECE_CHARACTERS):
            body: dict[str, object] = {"prompt": text[start : start + _PIECE_CHARACTERS]}
            answer = await complete(session, target, body | {"max_tokens": 0, "echo": True, "logprobs": 0})
            logprobs = answer["choices"][0]["logprobs"]["token_logprobs"][1:]
            total -= sum(logprobs)
            count += len(logprobs)
    if count == 0:
        raise BenchFailed("the text is too short: the first token of a piece cannot be predicted")
    return Score(tokens=count, nats=total / count)


async def measure(serve: list[str], shape: SweepShape, other: Target | None, *, as_json: bool) -> None:
    """Serve, measure, also `other` if given, and print. Raises `BenchFailed`."""
    room = ["--max-batch", str(max(shape.streams))]
    with own_server([*serve, *room]) as server:
        targets = [server.target, *([other] if other else [])]
        rows = await sweep(targets, shape, lambda what: console.print(what, style="dim"))
        weights, resident = server.weight_bytes(), server.resident_bytes()
    ceiling = read_bytes_per_s(threads=os.cpu_count() or 1)
    report = make_report(
        rows, weight_bytes=weights, resident_bytes=resident, ceiling=ceiling, label=server.target.label
    )
    show(msgspec.json.encode(report), table_of(report), as_json=as_json)


def score_formats(serve: list[str], text: str, formats: list[str], *, as_json: bool) -> None:
    """Serve the model as stored, then quantized to each format, and score the text. Raises `BenchFailed`."""
    scores: dict[str, Score] = {}
    for name in ("as stored", *formats):
        quantize = [] if name == "as stored" else ["--quantize", name]
        with own_server([*serve, *quantize]) as server:
            scores[name] = asyncio.run(score(server.target, text))
    table = Table("format", "perplexity", "nats a token", "tokens")
    for name, found in scores.items():
        table.add_row(name, f"{found.perplexity:.4f}", f"{found.nats:.5f}", str(found.tokens))
    numbers = {name: msgspec.structs.asdict(each) | {"perplexity": each.perplexity} for name, each in scores.items()}
    show(msgspec.json.encode(numbers), table, as_json=as_json)
