"""A whole benchmark: our own server, the measurement, the report."""

from __future__ import annotations

import asyncio
import os

import msgspec
from rich.table import Table

from gateway.bench.ceiling import read_bytes_per_s
from gateway.bench.house import own_house
from gateway.bench.load import Target
from gateway.bench.report import make_report, show, table_of
from gateway.bench.score import Score, score
from gateway.bench.sweep import Shape, sweep
from gateway.terminal import console


async def measure(serve: list[str], shape: Shape, other: Target | None, *, as_json: bool) -> None:
    """Serve, measure beside `other`, print. Raises `BenchFailed`."""
    room = ["--max-batch", str(max(shape.streams))]
    with own_house([*serve, *room]) as house:
        targets = [house.target, *([other] if other else [])]
        rows = await sweep(targets, shape, lambda what: console.print(what, style="dim"))
        weights, resident = house.weight_bytes(), house.resident_bytes()
    ceiling = read_bytes_per_s(threads=os.cpu_count() or 1)
    report = make_report(rows, weight_bytes=weights, resident_bytes=resident, ceiling=ceiling, label=house.target.label)
    show(msgspec.json.encode(report), table_of(report), as_json=as_json)


def score_formats(serve: list[str], text: str, formats: list[str], *, as_json: bool) -> None:
    """Serve the model as stored, then quantized to each format, and score the text. Raises `BenchFailed`."""
    scores: dict[str, Score] = {}
    for name in ("as stored", *formats):
        quantize = [] if name == "as stored" else ["--quantize", name]
        with own_house([*serve, *quantize]) as house:
            scores[name] = asyncio.run(score(house.target, text))
    table = Table("format", "perplexity", "nats a token", "tokens")
    for name, found in scores.items():
        table.add_row(name, f"{found.perplexity:.4f}", f"{found.nats:.5f}", str(found.tokens))
    numbers = {name: msgspec.structs.asdict(each) | {"perplexity": each.perplexity} for name, each in scores.items()}
    show(msgspec.json.encode(numbers), table, as_json=as_json)
