"""B8: a tenant that asks now and then does not wait behind one that asks for everything at once."""

from __future__ import annotations

import asyncio
import math
import time
from statistics import median

import msgspec

from e2e.harness.completions import WITHOUT_SPECIALS, completion_body, drawn_prompt
from e2e.harness.live import Client, Live, live_client
from e2e.harness.nonce import rng
from e2e.harness.running_server import Known, Target
from e2e.harness.timing import at_most, reach_nearly

FLOOD, FLOOD_TOKENS = 64, 64
LIGHT, LIGHT_TOKENS, EVERY_S = 12, 4, 0.5
WARM_UP = 2
PATIENCE = 40
"""Times the slowest start alone after which the light tenant gives up; the flood lasts for longer."""
GUARD_S = 120.0
"""Limit against hanging."""
WAIT = {"B8: p95 beside a flood over twice its time alone and a step": at_most(1.0)}


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds to the first token of the light tenant, alone and during the flood; and of a step during it."""

    alone: tuple[float, ...]
    beside: tuple[float, ...]
    gave_up: bool
    """True if the last one of `beside` had not begun when the time limit ended."""
    step_s: float

    @property
    def limit_s(self) -> float:
        return 2 * p95(self.alone) + self.step_s

    @property
    def over_limit(self) -> float:
        return p95(self.beside) / self.limit_s


def check_b8(target: Target, known: Known) -> None:
    """One tenant sends 64 requests at once; another's, two a second, start within twice their time alone and a step."""
    reach_nearly(lambda: wait_beside_flood(target), WAIT)


def wait_beside_flood(target: Target) -> dict[str, float]:
    """One round of B8."""
    return dict.fromkeys(WAIT, measured_waits(target).over_limit)


def measured_waits(target: Target, *, model: str = "few") -> Waits:
    """Ends early with a wait that lasted longer than patience does."""
    return asyncio.run(_measured(target, model))


def p95(values: tuple[float, ...]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


async def _measured(target: Target, model: str) -> Waits:
    ask = _Asking(target, model)
    async with live_client() as client:
        alone = [await ask.light(client, GUARD_S) for _ in range(WARM_UP + LIGHT)][WARM_UP:]
        patience_s = PATIENCE * max(each.first_s for each in alone)
        flood = [ask.flood(client) for _ in range(FLOOD)]
        await flood[0].wait_for(2, within_s=GUARD_S)
        beside = await _now_and_then(ask, client, patience_s)
    steps = [gap for each in flood for gap in each.gaps]
    return Waits(
        alone=tuple(each.first_s for each in alone),
        beside=tuple(each.first_s if each.arrivals else patience_s for each in beside),
        gave_up=not all(each.arrivals for each in beside),
        step_s=median(steps),
    )


async def _now_and_then(ask: _Asking, client: Client, patience_s: float) -> list[Live]:
    asked: list[Live] = []
    while len(asked) < LIGHT and (not asked or asked[-1].arrivals):
        start = time.monotonic()
        asked.append(await ask.light(client, patience_s))
        await asyncio.sleep(max(0.0, start + EVERY_S - time.monotonic()))
    return asked


class _Asking:
    """The two tenants."""

    def __init__(self, target: Target, model: str) -> None:
        self._target, self._model, self._draw = target, model, rng("fairness")

    async def light(self, client: Client, patience_s: float) -> Live:
        """A short answer that has ended, or has not begun within `patience_s`."""
        asked = self._live(client, self._target.keys.globex, tokens=LIGHT_TOKENS)
        try:
            await asked.wait_for(1, within_s=patience_s)
            await asked.wait_end(within_s=GUARD_S)
        except TimeoutError:
            await asked.close()
        return asked

    def flood(self, client: Client) -> Live:
        return self._live(client, self._target.keys.acme, tokens=FLOOD_TOKENS)

    def _live(self, client: Client, key: str, *, tokens: int) -> Live:
        body = completion_body(drawn_prompt(self._draw, 8), max_tokens=tokens, model=self._model)
        return client.stream(f"{self._target.api}/completions", body | WITHOUT_SPECIALS, key)
