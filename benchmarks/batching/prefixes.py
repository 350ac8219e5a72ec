"""The prefix cache: its gain on hits, its cost without hits, and that it reveals nothing of other tenants."""

from __future__ import annotations

import asyncio
import random
import statistics

import aiohttp

from benchmarks.batching.asking import Answer, Prompts, ask, tokens_per_s
from benchmarks.batching.ranks import mann_whitney_p
from benchmarks.batching.scene import Hall, Scene
from benchmarks.record import Bar, Numbers, at_least, at_most
from gateway.bench.load import new_session

KNOWN_PART = 0.9
REPEATS = 3
"""Prompts a round."""
AT_ONCE, PROMPT, TOKENS = 8, 128, 16
WARM_BAR, NO_HITS_BAR, OTHERS_HITS_BAR, LIKE_COLD_BAR = 0.25, 0.99, 0, 0.01


def measure_prefixes(scene: Scene) -> dict[str, object]:
    """Measure part `prefixes`."""
    path = str(scene.path("Q4_K"))
    models = {
        "on": {"path": path, "max_context": 1024},
        "off": {"path": path, "max_context": 1024, "prefix_cache": False},
    }
    with scene.hall(models, {"first": {}, "second": {}}) as hall:
        return asyncio.run(_first_tokens(scene, hall)) | asyncio.run(_cost(scene, hall))


def bars(numbers: Numbers) -> list[Bar]:
    """Bars on the gain of hits, the cost without hits, and that other tenants get none and cannot detect any."""
    like_cold = numbers["p_cold_like_other_tenants"]
    return [
        at_most("prefixes: first token warm over cold", numbers["warm_over_cold"], WARM_BAR, unit="×"),
        at_most("prefixes: tokens that another tenant hit", numbers["other_tenants_hits"], OTHERS_HITS_BAR),
        at_least("prefixes: p that another tenant's times are like cold ones", like_cold, LIKE_COLD_BAR),
        at_least("prefixes: speed at no hits over no cache", numbers["speed_at_no_hits"], NO_HITS_BAR, unit="×"),
    ]


async def _first_tokens(scene: Scene, hall: Hall) -> dict[str, object]:
    cold: list[float] = []
    warm: list[float] = []
    other: list[float] = []
    hits = 0
    async with new_session() as session:
        await _three(scene, hall, session)
        for _ in range(REPEATS * scene.effort.rounds):
            answers = await _three(scene, hall, session)
            for times, answer in zip((cold, warm, other), answers, strict=True):
                times.append(answer.first_s)
            hits += answers[0].cached_tokens + answers[2].cached_tokens
    medians = [statistics.median(times) for times in (cold, warm, other)]
    return {
        "first_token_ms": dict(
            zip(("cold", "warm", "other_tenant"), (round(1000 * s, 1) for s in medians), strict=True)
        ),
        "warm_over_cold": round(statistics.median(b / a for a, b in zip(cold, warm, strict=True)), 3),
        "other_tenants_hits": hits,
        "p_cold_like_other_tenants": round(mann_whitney_p(cold, other), 4),
    }


async def _three(scene: Scene, hall: Hall, session: aiohttp.ClientSession) -> tuple[Answer, Answer, Answer]:
    """Answers: cold; warm: 90 % of a prompt that the same tenant sent; other: a prompt that another tenant sent.

    The cold one and the other tenant's come in either order, so that neither is always the first after a pause.
    """
    first, second = hall.target("on", "first"), hall.target("on", "second")
    length = scene.effort.long_prompt
    prompts = Prompts(scene.effort.sizes)
    asked, fresh = prompts.draw(length), prompts.draw(length)
    known = int(KNOWN_PART * length)
    await ask(session, first, asked, tokens=2)
    warm = await ask(session, first, [*asked[:known], *prompts.draw(length - known)], tokens=2)
    answers = {}
    for name, prompt in random.sample([("cold", fresh), ("other", asked)], k=2):
        answers[name] = await ask(session, second, prompt, tokens=2)
    return answers["cold"], warm, answers["other"]


async def _cost(scene: Scene, hall: Hall) -> dict[str, object]:
    """Speed with the cache over speed without it, of prompts that share nothing."""
    ratios: list[float] = []
    prompts = Prompts(scene.effort.sizes)
    async with new_session() as session:
        for number in range(2 * scene.effort.rounds + 1):
            speeds = {}
            for name in ("on", "off") if number % 2 else ("off", "on"):
                drawn = [prompts.draw(PROMPT) for _ in range(AT_ONCE)]
                speeds[name] = await tokens_per_s(session, [hall.target(name, "first")], drawn, tokens=TOKENS)
            ratios += [speeds["on"] / speeds["off"]] * bool(number)
    return {"speed_at_no_hits": round(statistics.median(ratios), 3)}
