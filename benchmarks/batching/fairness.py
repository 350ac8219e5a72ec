"""Tenants that always have more requests: their service by weight, and its cost against first come first served."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter

import aiohttp

from benchmarks.batching.asking import Prompts, events
from benchmarks.batching.scene import Hall, Scene
from benchmarks.record import Bar, NothingMeasured, Numbers, at_least, at_most
from gateway.bench.load import Target, new_session

EQUAL = {f"equal-{number}": 1.0 for number in range(6)}
WEIGHTED = {"light": 1.0, "middle": 2.0, "heavy": 4.0}
ROOM = {"max_batch": 8, "max_context": 256}
IN_FLIGHT, PROMPT, TOKENS = 10, 16, 16
WARM_UP_S = 1.5
JAIN_BAR, OFF_ITS_SHARE_BAR, OVER_FIRST_COME_BAR = 0.99, 0.05, 0.99


def measure_fairness(scene: Scene) -> dict[str, object]:
    """Measure part `fairness`."""
    model = {"path": str(scene.path("Q4_K")), **ROOM}
    models = {"fair": model, "fcfs": {**model, "scheduling": "fcfs"}}
    tenants = {name: {"weight": weight} for name, weight in (EQUAL | WEIGHTED).items()}
    with scene.hall(models, tenants) as hall:
        return asyncio.run(_measured(scene, hall))


def bars(numbers: Numbers) -> list[Bar]:
    """Shares of equal and of weighted tenants, and the throughput of all."""
    furthest = max(abs(off) for off in numbers["off_its_share"].values())
    return [
        at_least("fairness: Jain's index of equal tenants", numbers["jain"], JAIN_BAR),
        at_most("fairness: furthest off the share of its weight", furthest, OFF_ITS_SHARE_BAR),
        at_least("fairness: throughput over first come", numbers["over_first_come"], OVER_FIRST_COME_BAR, unit="×"),
    ]


async def _measured(scene: Scene, hall: Hall) -> dict[str, object]:
    equal, weighted = Counter[str](), Counter[str]()
    ratios: list[float] = []
    for number in range(scene.effort.rounds):
        orders = ("fair", "fcfs") if number % 2 else ("fcfs", "fair")
        served = {order: await _served(scene, hall, order, EQUAL) for order in orders}
        ratios.append(served["fair"].total() / served["fcfs"].total())
        equal += served["fair"]
        weighted += await _served(scene, hall, "fair", WEIGHTED)
    return {
        "pieces": {"equal": dict(equal), "weighted": dict(weighted)},
        "jain": round(jain([equal[name] for name in EQUAL]), 4),
        "off_its_share": {name: round(_off(weighted, name), 4) for name in WEIGHTED},
        "over_first_come": round(statistics.median(ratios), 3),
    }


async def _served(scene: Scene, hall: Hall, model: str, tenants: dict[str, float]) -> Counter[str]:
    """Pieces of text that each tenant received within the window; all had requests waiting all the time.

    Raises `NothingMeasured` if no tenant received any.
    """
    counted: Counter[str] = Counter()
    begin = time.perf_counter() + WARM_UP_S
    end = begin + scene.effort.window_s
    prompts = Prompts(scene.effort.sizes)
    async with new_session() as session:
        asking = [
            _ask_until(end, begin, session, hall.target(model, name), prompts, counted)
            for name in tenants
            for _ in range(IN_FLIGHT)
        ]
        await asyncio.gather(*asking)
    if not counted.total():
        raise NothingMeasured(f"no text reached any tenant within {scene.effort.window_s} s; measure longer")
    return counted


async def _ask_until(
    end: float,
    begin: float,
    session: aiohttp.ClientSession,
    target: Target,
    prompts: Prompts,
    counted: Counter[str],
) -> None:
    while time.perf_counter() < end:
        async for _ in events(session, target, prompts.draw(PROMPT), tokens=TOKENS):
            counted[target.label] += begin <= time.perf_counter() < end


def jain(values: list[int]) -> float:
    """Jain, Chiu and Hawe (1984): 1 where all have the same, 1/n where one has everything."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def _off(counted: Counter[str], name: str) -> float:
    """Relative distance of a tenant's service from its share by weight."""
    due = counted.total() * WEIGHTED[name] / sum(WEIGHTED.values())
    return counted[name] / due - 1
