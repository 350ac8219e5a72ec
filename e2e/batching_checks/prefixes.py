"""B10: a shared beginning is computed once, for one tenant."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from e2e.harness.completions import cached, complete, completion_body, drawn_prompt, text_of
from e2e.harness.nonce import rng
from e2e.harness.running_server import Known, Target
from e2e.harness.timing import at_least, at_most, reach_nearly
from e2e.harness.wire import Json, stream

TOKENS, BLOCK = 24, 16
LENGTHS = {"mlx": 160}
"""Tokens of a long prompt, 800 elsewhere: MLX computes a hundred tokens a second on a CPU."""
SOONER = {
    "B10: first token of a known beginning over a cold one": at_most(1 / 4),
    "B10: first token of another tenant over a cold one": at_least(0.9),
}

_draw = rng("prefix")
"""Goes on from call to call: what was asked before would not be cold."""


def check_b10(target: Target, known: Known) -> None:
    """The answers are right, `cached_tokens` says how much was there, and another tenant finds nothing."""
    (prompt,) = known.random.steady_prompts(_draw, 1, max_tokens=TOKENS, lengths=range(150, 151))
    ends = [_draw.sample(range(100, 200), 8) for _ in range(6)]
    cold = _ask(target, prompt, target.keys.acme)

    with ThreadPoolExecutor(len(ends)) as pool:
        warm = list(pool.map(lambda end: _ask(target, [*prompt, *end], target.keys.acme), ends))
    other = _ask(target, prompt, target.keys.globex)
    again = _ask(target, prompt, target.keys.globex)

    whole_blocks = len(prompt) // BLOCK * BLOCK
    assert cached(cold) == 0, cold["usage"]
    assert list(map(cached, warm)) == [whole_blocks] * len(ends)
    assert (cached(other), cached(again)) == (0, whole_blocks)
    assert text_of(cold) == text_of(other) == text_of(again)
    assert text_of(cold) == known.random.greedy(prompt, TOKENS, ignore_eos=True).text
    for end, answer in zip(ends, warm, strict=True):
        expected = known.random.greedy([*prompt, *end], TOKENS, ignore_eos=True)
        assert text_of(answer) == expected.text or expected.min_gap < 1e-3


def check_b10_sooner(target: Target, known: Known, *, runner: str) -> None:
    """90 % of a long prompt known, about a quarter of the time to the first token; for another tenant it is cold."""
    warm_up(target, runner=runner)
    reach_nearly(lambda: sooner(target, runner=runner), SOONER)


def sooner(target: Target, *, runner: str = "") -> dict[str, float]:
    """One round: three new prompts with one common prefix. The tenants take turns at sending first."""
    keys = [target.keys.acme, target.keys.globex]
    _draw.shuffle(keys)
    length = LENGTHS.get(runner, 800)
    shared = drawn_prompt(_draw, length * 9 // 10)
    cold_s, warm_s, other_s = (
        _first_token_s(target, [*shared, *drawn_prompt(_draw, length // 10)], key) for key in (keys[0], *keys)
    )
    return dict(zip(SOONER, (warm_s / cold_s, other_s / cold_s), strict=True))


def warm_up(target: Target, *, runner: str = "") -> None:
    _first_token_s(target, drawn_prompt(_draw, LENGTHS.get(runner, 800)), target.keys.acme)


def _ask(target: Target, prompt: list[int], key: str) -> Json:
    return complete(target, prompt, key=key, max_tokens=TOKENS)


def _first_token_s(target: Target, prompt: list[int], key: str) -> float:
    body = completion_body(prompt, max_tokens=2, model="big")
    return stream(f"{target.api}/completions", body, key).arrivals[0].at
