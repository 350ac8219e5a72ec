"""B10: a shared beginning is computed once, for one tenant."""

from __future__ import annotations

import statistics
from concurrent.futures import ThreadPoolExecutor

from e2e.harness.completions import cached, complete, completion_body, drawn_prompt, text_of
from e2e.harness.house import Known, Target
from e2e.harness.nonce import rng
from e2e.harness.record import record
from e2e.harness.wire import Json, stream

TOKENS, BLOCK = 24, 16
WARM, OTHER = 1 / 4, 1 / 1.5
"""Most time to the first token that a known beginning may take of a cold one; least that another tenant's must take."""

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
    """90 % of a long prompt known, a quarter of the time to the first token; for another tenant it is cold."""
    rounds, length = (1, 160) if runner == "mlx" else (3, 800)  # MLX computes a hundred tokens a second on a CPU
    cold: list[float] = []
    warm: list[float] = []
    other: list[float] = []
    for _ in range(rounds):
        shared = drawn_prompt(_draw, length * 9 // 10)
        for times, key in ((cold, target.keys.acme), (warm, target.keys.acme), (other, target.keys.globex)):
            times.append(_first_token_s(target, [*shared, *drawn_prompt(_draw, length // 10)], key))

    medians = [round(statistics.median(times), 4) for times in (cold, warm, other)]
    record("B10", f"time to first token on {runner}", cold=medians[0], warm=medians[1], other_tenant=medians[2])
    assert medians[1] <= WARM * medians[0], medians
    assert medians[2] >= OTHER * medians[0], medians


def _ask(target: Target, prompt: list[int], key: str) -> Json:
    return complete(target, prompt, key=key, max_tokens=TOKENS)


def _first_token_s(target: Target, prompt: list[int], key: str) -> float:
    body = completion_body(prompt, max_tokens=2, model="big")
    return stream(f"{target.api}/completions", body, key).arrivals[0].at
