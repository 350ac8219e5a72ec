"""B4: who joins does not wait for those who run, and those who run hardly notice."""

from __future__ import annotations

import asyncio
from statistics import mean, median, quantiles

import msgspec

from e2e.harness.completions import WITHOUT_SPECIALS, completion_body, drawn_prompt, engine, wait_idle
from e2e.harness.house import Known, Target
from e2e.harness.live import Client, Live, live_client
from e2e.harness.nonce import rng
from e2e.harness.record import record

LONG, SHORT, PROMPT = 512, 16, 1000
ALONE = 24
"""Tokens of the running answer before anybody joins."""
SEVERAL_STEPS, SLOWEST = 3, 3
JOINS_WITHIN_S, WITHIN_S = 20.0, 90.0
TRIES = 3


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `step_s` and `slow_s` are the median and the 99th percentile between tokens of the running answer."""

    prefill_alone_s: float
    first_token_s: float
    step_s: float
    slow_s: float
    slowest_s: float

    @property
    def first_token_limit_s(self) -> float:
        return self.prefill_alone_s + SEVERAL_STEPS * self.step_s

    @property
    def slow_limit_s(self) -> float:
        return SLOWEST * self.step_s

    @property
    def is_smooth(self) -> bool:
        return self.first_token_s <= self.first_token_limit_s and self.slow_s <= self.slow_limit_s


def check_b4(target: Target, known: Known) -> None:
    """The long answer shows its first token when that is made, and the short one ends amid it."""
    asyncio.run(_check_joins(target))


def check_b4_flow(target: Target, known: Known) -> None:
    """A long prompt beside a running answer starts as soon as alone, and the answer flows on meanwhile."""
    for _ in range(TRIES):
        flow = asyncio.run(_flow(target))
        if flow.is_smooth:
            break
    record("batching", "flow", **{name: round(seconds, 4) for name, seconds in msgspec.structs.asdict(flow).items()})
    assert flow.first_token_s <= flow.first_token_limit_s, f"{flow}, at most {flow.first_token_limit_s:.3f}"
    assert flow.slow_s <= flow.slow_limit_s, f"{flow}, at most {flow.slow_limit_s:.3f}"


async def _check_joins(target: Target) -> None:
    async with live_client() as client:
        wait_idle(target, "big")
        before = engine(target, "big")["generated_tokens"]
        running = _live(target, client, prompt=8, tokens=LONG)
        await running.wait_for(1, within_s=JOINS_WITHIN_S)
        made = engine(target, "big")["generated_tokens"] - before
        assert made < LONG / 8, f"its first token was shown after {made:.0f} were made"
        short = _live(target, client, prompt=8, tokens=SHORT)
        await short.wait_end(within_s=JOINS_WITHIN_S)
        assert not running.is_ended, f"{LONG} tokens took no longer than {SHORT} that came later"
        await running.close()
        wait_idle(target, "big")


async def _flow(target: Target) -> Flow:
    async with live_client() as client:
        alone = [await _first_token_s(target, client)]
        running = _live(target, client, prompt=8, tokens=LONG)
        await running.wait_for(ALONE, within_s=WITHIN_S)
        await _live(target, client, prompt=8, tokens=SHORT).wait_end(within_s=WITHIN_S)
        first_token_s = await _first_token_s(target, client)
        await running.wait_end(within_s=WITHIN_S)
        alone.append(await _first_token_s(target, client))
    return Flow(
        prefill_alone_s=mean(alone),
        first_token_s=first_token_s,
        step_s=median(running.gaps),
        slow_s=quantiles(running.gaps, n=100)[98],
        slowest_s=max(running.gaps),
    )


async def _first_token_s(target: Target, client: Client) -> float:
    """Of a long prompt that nobody asked before."""
    asked = _live(target, client, prompt=PROMPT, tokens=2)
    await asked.wait_end(within_s=WITHIN_S)
    return asked.first_s


_draw = rng("joining")


def _live(target: Target, client: Client, *, prompt: int, tokens: int) -> Live:
    body = completion_body(drawn_prompt(_draw, prompt), max_tokens=tokens, model="big") | WITHOUT_SPECIALS
    return client.stream(f"{target.api}/completions", body, target.keys.acme)
