"""B4: who joins does not wait for those who run, and those who run hardly notice."""

from __future__ import annotations

import asyncio
import time
from statistics import mean, median, quantiles

import msgspec

from e2e.harness.completions import WITHOUT_SPECIALS, completion_body, drawn_prompt, engine, wait_idle
from e2e.harness.live import Client, Live, live_client
from e2e.harness.nonce import rng
from e2e.harness.running_server import Known, Target
from e2e.harness.timing import at_most

LONG, SHORT, PROMPT = 512, 16, 1000
ALONE = 24
"""Tokens of the running answer before another request joins."""
SEVERAL_STEPS, SLOWEST = 3, 3
ENOUGH = 200
"""Tokens of the running answer after which a round is over."""
GUARD_S = 120.0
"""Limit against hanging."""
FLOW = {
    "B4: first token of a short answer that joins over 3 steps and its prefill": at_most(1.0),
    "B4: p99 between tokens of the running answer over 3 medians": at_most(1.0),
    "B4: median between tokens beside a 1,000-token prompt over 3 medians": at_most(1.0),
    "B4: first token of that prompt over 3 times alone": at_most(1.0),
}


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `step_s` and `slow_s` are the median and the 99th percentile between tokens of the running answer."""

    short_alone_s: float
    short_s: float
    """Times to the first token of an answer that joins, and of one alone, which is a prefill and a step."""
    prompt_alone_s: float
    prompt_s: float
    """The same of the long prompt."""
    step_s: float
    slow_s: float
    beside_s: float
    """Median time between tokens of the running answer while the long prompt was computed."""

    @property
    def ratios(self) -> dict[str, float]:
        slow_limit_s = SLOWEST * self.step_s
        values = (
            self.short_s / (self.short_alone_s + SEVERAL_STEPS * self.step_s),
            self.slow_s / slow_limit_s,
            self.beside_s / slow_limit_s,
            self.prompt_s / (SLOWEST * self.prompt_alone_s),
        )
        return dict(zip(FLOW, values, strict=True))


def check_b4(target: Target, known: Known) -> None:
    """The long answer shows its first token when that is made, and the short one ends amid it."""
    asyncio.run(_check_joins(target))


def flow(target: Target) -> dict[str, float]:
    """One round of B4: a new request gets its first token within steps; a long prompt is computed in chunks."""
    return asyncio.run(_flow(target)).ratios


async def _check_joins(target: Target) -> None:
    async with live_client() as client:
        wait_idle(target, "big")
        before = engine(target, "big")["generated_tokens"]
        running = _live(target, client, prompt=8, tokens=LONG)
        await running.wait_for(1, within_s=GUARD_S)
        made = engine(target, "big")["generated_tokens"] - before
        assert made < LONG / 8, f"its first token was shown after {made:.0f} were made"
        short = _live(target, client, prompt=8, tokens=SHORT)
        await short.wait_end(within_s=GUARD_S)
        assert not running.is_ended, f"{LONG} tokens took no longer than {SHORT} that came later"
        await running.close()
        wait_idle(target, "big")


async def _flow(target: Target) -> Flow:
    async with live_client() as client:
        alone = [await _first(target, client, prompt) for prompt in (8, PROMPT)]
        running = _live(target, client, prompt=8, tokens=LONG)
        await running.wait_for(ALONE, within_s=GUARD_S)
        short = await _first(target, client, 8)
        step_s = median(running.gaps)
        begin = time.monotonic()
        prompt = await _first(target, client, PROMPT)
        beside = running.gaps_within(begin, time.monotonic())
        await running.wait_for(ENOUGH, within_s=GUARD_S)
        gaps = running.gaps
        await running.close()
        wait_idle(target, "big")
        alone += [await _first(target, client, prompt) for prompt in (8, PROMPT)]
    assert len(beside) > 1, "the long prompt held up the running answer until it was computed"
    return Flow(
        short_alone_s=mean(alone[::2]),
        short_s=short,
        prompt_alone_s=mean(alone[1::2]),
        prompt_s=prompt,
        step_s=step_s,
        slow_s=quantiles(gaps, n=100)[98],
        beside_s=median(beside),
    )


async def _first(target: Target, client: Client, prompt: int) -> float:
    """Seconds to the first token of a new prompt of that length."""
    asked = _live(target, client, prompt=prompt, tokens=SHORT if prompt < PROMPT else 2)
    await asked.wait_end(within_s=GUARD_S)
    return asked.first_s


_draw = rng("joining")


def _live(target: Target, client: Client, *, prompt: int, tokens: int) -> Live:
    body = completion_body(drawn_prompt(_draw, prompt), max_tokens=tokens, model="big") | WITHOUT_SPECIALS
    return client.stream(f"{target.api}/completions", body, target.keys.acme)
