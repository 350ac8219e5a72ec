"""The same 64 streams from one tenant, from 8, from 16 and from 64."""

from __future__ import annotations

import asyncio
import statistics

from benchmarks.batching.asking import Prompts, tokens_per_s
from benchmarks.batching.scene import Hall, Scene
from benchmarks.record import Bar, Numbers, at_least
from gateway.bench.load import new_session

TENANTS = (1, 8, 16, 64)
AT_ONCE, PROMPT, TOKENS = 64, 16, 16
OVER_ONE_BAR = 0.97


def measure_crowd(scene: Scene) -> dict[str, object]:
    """Measure part `crowd`."""
    models = {"bench": {"path": str(scene.path("Q4_K")), "max_context": 256}}
    with scene.hall(models, {_name(number): {} for number in range(max(TENANTS))}) as hall:
        return asyncio.run(_measured(scene, hall))


def bars(numbers: Numbers) -> list[Bar]:
    """Speed of many tenants over that of one."""
    ratios = numbers["over_one_tenant"].items()
    return [at_least(f"{count} tenants over one", ratio, OVER_ONE_BAR, unit="×") for count, ratio in ratios]


async def _measured(scene: Scene, hall: Hall) -> dict[str, object]:
    speeds: dict[int, list[float]] = {count: [] for count in TENANTS}
    prompts = Prompts(scene.effort.sizes)
    async with new_session() as session:
        for number in range(scene.effort.rounds + 1):
            # Forth and back, so that drift favours no tenant.
            for count in TENANTS if number % 2 else TENANTS[::-1]:
                targets = [hall.target("bench", _name(tenant)) for tenant in range(count)]
                drawn = [prompts.draw(PROMPT) for _ in range(AT_ONCE)]
                found = await tokens_per_s(session, targets, drawn, tokens=TOKENS)
                speeds[count] += [found] * bool(number)
    return {
        "tokens_per_s": {str(count): round(statistics.median(found), 1) for count, found in speeds.items()},
        "over_one_tenant": {str(count): _over_one(speeds, count) for count in TENANTS[1:]},
    }


def _over_one(speeds: dict[int, list[float]], count: int) -> float:
    return round(statistics.median(a / b for a, b in zip(speeds[count], speeds[1], strict=True)), 3)


def _name(number: int) -> str:
    return f"guest-{number}"
