"""1 to 16 streams over HTTP compared with the ceiling of the linears, and the part of a step outside the runner."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator

import aiohttp

from benchmarks.batching.asking import engine_total
from benchmarks.batching.linears import Linears
from benchmarks.batching.scene import Scene
from benchmarks.record import Bar, Numbers, at_least, at_most, rate, tables
from gateway.bench.load import PromptMaker, Target, Volley, measured_maker, new_session, volley

STREAMS = (1, 4, 8, 16)
FORMATS = ("Q4_K", "Q8_0", "F32")
PROMPT, BATCH = 16, 8
LONGER = 4
"""Times as many tokens where the overhead of a step is looked for, so that prompts hardly count."""
CEILING_BARS = {8: 0.85, 16: 0.85}
"""Streams → least share of the ceiling."""
GAIN_BARS = {"F32": {8: 3.5, 16: 5.0}}
"""Streams → least times the speed of one, by format."""
OVERHEAD_BAR_PERCENT = 4.0


def measure_streams(scene: Scene) -> dict[str, object]:
    """Measure part `streams`: every format."""
    return {form: _of_format(scene, form) for form in FORMATS}


def bars(numbers: Numbers) -> list[Bar]:
    """Bars of each format."""
    return [bar for form, found in tables(numbers).items() for bar in _bars_of(form, found)]


def _bars_of(form: str, found: Numbers) -> Iterator[Bar]:
    for count, bar in CEILING_BARS.items():
        share = found["share_of_ceiling"][str(count)]
        yield at_least(f"{form}: share of the linears' ceiling, {count} streams", share, bar)
    for count, bar in GAIN_BARS.get(form, {}).items():
        gain = found["gain_over_one_stream"][str(count)]
        yield at_least(f"{form}: {count} streams over one", gain, bar, unit="×")
    overhead = found["overhead_percent_of_a_step"]
    yield at_most(f"{form}: all but the runner, of a step of {BATCH}", overhead, OVERHEAD_BAR_PERCENT, unit="%")


def _of_format(scene: Scene, form: str) -> dict[str, object]:
    linears = Linears(scene.path(form))
    with scene.hall({"bench": {"path": str(scene.path(form)), "max_context": 512}}, {"guest": {}}) as hall:
        return asyncio.run(_measured(scene, hall.target("bench", "guest"), linears))


async def _measured(scene: Scene, target: Target, linears: Linears) -> dict[str, object]:
    speeds: dict[int, list[float]] = {count: [] for count in STREAMS}
    decode: dict[int, list[float]] = {count: [] for count in STREAMS}
    ceilings: dict[int, list[float]] = {count: [] for count in STREAMS}
    overheads: list[float] = []
    async with new_session() as session:
        maker = await measured_maker(session, target)
        await _fired(session, target, maker, max(STREAMS), tokens=4)
        for _ in range(scene.effort.rounds):
            for count in STREAMS:
                fired = await _fired(session, target, maker, count, tokens=scene.effort.tokens)
                speeds[count].append(fired.tokens_per_s)
                decode[count].append(rate(fired.decode_tokens_per_s, f"decoding of {count} streams"))
                ceilings[count].append(count / linears.step_s(count))
            overheads.append(await _overhead(session, target, maker, tokens=LONGER * scene.effort.tokens))
    return {
        "tokens_per_s": _medians(speeds),
        "decode_tokens_per_s": _medians(decode),
        "ceiling_tokens_per_s": _medians(ceilings),
        "share_of_ceiling": _ratios(decode, ceilings),
        "gain_over_one_stream": _ratios(speeds, dict.fromkeys(STREAMS, speeds[1])),
        "overhead_percent_of_a_step": round(100 * statistics.median(overheads), 2),
    }


async def _overhead(session: aiohttp.ClientSession, target: Target, maker: PromptMaker, *, tokens: int) -> float:
    """The part of eight streams' time in which the runner was not at work: scheduler, sampling, messages, HTTP."""
    before = await engine_total(session, target, "step_seconds")
    start = time.perf_counter()
    await _fired(session, target, maker, BATCH, tokens=tokens)
    wall_s = time.perf_counter() - start
    return 1 - (await engine_total(session, target, "step_seconds") - before) / wall_s


async def _fired(
    session: aiohttp.ClientSession, target: Target, maker: PromptMaker, count: int, *, tokens: int
) -> Volley:
    return await volley(session, target, [maker.prompt(PROMPT) for _ in range(count)], tokens=tokens)


def _medians(found: dict[int, list[float]]) -> dict[str, float]:
    return {str(count): round(statistics.median(values), 1) for count, values in found.items()}


def _ratios(over: dict[int, list[float]], under: dict[int, list[float]]) -> dict[str, float]:
    """Ratios of each round, in the median."""
    return {
        str(count): round(statistics.median(a / b for a, b in zip(over[count], under[count], strict=True)), 3)
        for count in over
    }
