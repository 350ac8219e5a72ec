"""Measures all servers and stream counts in interleaved rounds, and takes medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

import aiohttp
import msgspec

from gateway.bench.load import PromptMaker, Target, Volley, measured_maker, new_session, volley

_WARM_UP_TOKENS = 4


class SweepShape(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of the load: concurrent `streams`, prompts and completions in tokens, `rounds` of everything."""

    streams: tuple[int, ...]
    prompt_tokens: int
    tokens: int
    rounds: int


class SweepRow(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over rounds of one server at one number of streams; times in milliseconds."""

    label: str
    streams: int
    tokens_per_s: float
    """Rate of all streams, prompts included."""
    decode_tokens_per_s: float
    """Rate of all streams while all of them generate."""
    prompt_tokens_per_s: float
    """Rate of all streams together, until the last one has its first token."""
    first_token_ms: float
    between_tokens_ms: float
    prompt_tokens: float
    tokens: float


async def sweep(targets: list[Target], shape: SweepShape, tell: Callable[[str], None]) -> list[SweepRow]:
    """Round by round, server by server. Raises `BenchFailed`."""
    volleys: dict[tuple[str, int], list[Volley]] = {}
    async with new_session() as session:
        makers = {target.label: await measured_maker(session, target) for target in targets}
        for number in range(shape.rounds):
            for count in shape.streams:
                for target in targets:
                    tell(f"round {number + 1} of {shape.rounds}: {target.label}, {count} streams")
                    fired = await _fire(session, target, makers[target.label], count, shape, is_first=number == 0)
                    volleys.setdefault((target.label, count), []).append(fired)
    return [_row(label, count, found) for (label, count), found in volleys.items()]


async def _fire(
    session: aiohttp.ClientSession, target: Target, maker: PromptMaker, count: int, shape: SweepShape, *, is_first: bool
) -> Volley:
    if is_first:
        await volley(session, target, [maker.prompt(shape.prompt_tokens)] * count, tokens=_WARM_UP_TOKENS)
    prompts = [maker.prompt(shape.prompt_tokens) for _ in range(count)]
    return await volley(session, target, prompts, tokens=shape.tokens)


def _row(label: str, streams: int, volleys: list[Volley]) -> SweepRow:
    shots = [shot for each in volleys for shot in each.shots]
    gaps = [(shot.total_s - shot.first_s) / (shot.tokens - 1) for shot in shots if shot.tokens > 1]
    between_s = _median(gaps) if gaps else 0.0
    return SweepRow(
        label=label,
        streams=streams,
        tokens_per_s=_median(each.tokens_per_s for each in volleys),
        decode_tokens_per_s=_median(each.decode_tokens_per_s for each in volleys),
        prompt_tokens_per_s=_median(_prompt_rate(each) for each in volleys),
        first_token_ms=1000 * _median(shot.first_s for shot in shots),
        between_tokens_ms=1000 * between_s,
        prompt_tokens=_median(shot.prompt_tokens for shot in shots),
        tokens=_median(shot.tokens for shot in shots),
    )


def _prompt_rate(fired: Volley) -> float:
    return sum(shot.prompt_tokens for shot in fired.shots) / max(shot.first_s for shot in fired.shots)


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))
