"""B8: a tenant that asks now and then does not wait behind one that asks for everything at once."""

from __future__ import annotations

import asyncio
import math
import time
from statistics import median

import msgspec

from e2e.harness.completions import WITHOUT_SPECIALS, completion_body, drawn_prompt
from e2e.harness.house import Known, Target
from e2e.harness.live import Client, Live, live_client
from e2e.harness.nonce import rng
from e2e.harness.record import record

FLOOD, FLOOD_TOKENS = 64, 64
LIGHT, LIGHT_TOKENS, EVERY_S = 20, 4, 0.5
WARM_UP = 2
PATIENCE_S = 3.0
"""Who waits longer has waited too long, whatever the limit is; the flood lasts for more."""
TRIES = 3


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds to the first token of the light tenant, alone and beside the flood; and of a step beside it."""

    alone: tuple[float, ...]
    beside: tuple[float, ...]
    gave_up: bool
    """The last one of `beside` had not begun when patience ended."""
    step_s: float

    @property
    def limit_s(self) -> float:
        return 2 * p95(self.alone) + self.step_s

    @property
    def guard_s(self) -> float:
        """A step more: the client of the flood takes its part of two cores from the engine."""
        return self.limit_s + self.step_s

    @property
    def is_fair(self) -> bool:
        return not self.gave_up and p95(self.beside) <= self.guard_s


def check_b8(target: Target, known: Known) -> None:
    """One tenant sends 64 requests at once; another's, two a second, start within twice their time alone and a step.

    That is recorded; asserted is the guard.
    """
    for _ in range(TRIES):
        waits = measured_waits(target)
        if waits.is_fair or waits.gave_up:
            break
    record("batching", "beside a flood", p95=round(p95(waits.beside), 4), limit=round(waits.limit_s, 4))
    assert waits.is_fair, f"{p95(waits.beside):.3f} s beside the flood, at most {waits.guard_s:.3f}: {waits}"


def measured_waits(target: Target, *, model: str = "few", patience_s: float = PATIENCE_S) -> Waits:
    """Ends early with a wait of `patience_s` that lasted longer."""
    return asyncio.run(_measured(target, model, patience_s))


def p95(values: tuple[float, ...]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


async def _measured(target: Target, model: str, patience_s: float) -> Waits:
    ask = _Asking(target, model)
    async with live_client() as client:
        alone = [await ask.light(client, patience_s) for _ in range(WARM_UP + LIGHT)]
        flood = [ask.flood(client) for _ in range(FLOOD)]
        await flood[0].wait_for(2, within_s=60)
        beside = await _now_and_then(ask, client, patience_s)
    steps = [gap for each in flood for gap in each.gaps]
    return Waits(
        alone=tuple(each.first_s for each in alone[WARM_UP:]),
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
            await asked.wait_end(within_s=60)
        except TimeoutError:
            await asked.close()
        return asked

    def flood(self, client: Client) -> Live:
        return self._live(client, self._target.keys.acme, tokens=FLOOD_TOKENS)

    def _live(self, client: Client, key: str, *, tokens: int) -> Live:
        body = completion_body(drawn_prompt(self._draw, 8), max_tokens=tokens, model=self._model)
        return client.stream(f"{self._target.api}/completions", body | WITHOUT_SPECIALS, key)
