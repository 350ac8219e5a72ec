"""B1, B2, B11: what sequences gain by running together, as clients see it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from e2e.harness.completions import complete, drawn_prompt
from e2e.harness.nonce import rng
from e2e.harness.running_server import Known, Target
from e2e.harness.timing import at_least, reach_nearly

TOKENS, CONTROL_TOKENS, CROWD_TOKENS, PROMPT = 64, 16, 6, 8
GAINS = {"B1: 8 streams over one": at_least(3.5), "B1: 16 streams over one": at_least(5.0)}
CONTROL = {"B2: 8 streams over the same one at a time": at_least(3.0)}
SHARES = {f"B11: 64 streams of {count} tenants over those of one": at_least(0.97) for count in (8, 16, 64)}


def check_b1(target: Target, known: Known) -> None:
    """Eight and sixteen streams together are so many times faster than one."""
    warm_up(target)
    reach_nearly(lambda: gains(target, tokens=CONTROL_TOKENS), GAINS)


def gains(target: Target, *, tokens: int = TOKENS) -> dict[str, float]:
    """One round of B1."""
    one, eight, sixteen = (tokens_per_s(target, count, tokens=tokens) for count in (1, 8, 16))
    return dict(zip(GAINS, (eight / one, sixteen / one), strict=True))


def gain_over_control(target: Target) -> dict[str, float]:
    """One round of B2: eight streams at once, and where one sequence runs at a time."""
    together, single = (tokens_per_s(target, 8, tokens=CONTROL_TOKENS, model=name) for name in ("big", "single"))
    return dict.fromkeys(CONTROL, together / single)


def shares_of_tenants(target: Target, keys: Sequence[str]) -> dict[str, float]:
    """One round of B11: as many streams as there are keys, of one, 8, 16 and all tenants."""
    one, *several = (
        tokens_per_s(target, len(keys), keys=keys[:count], tokens=CROWD_TOKENS) for count in (1, 8, 16, len(keys))
    )
    return {name: speed / one for name, speed in zip(SHARES, several, strict=True)}


def warm_up(target: Target) -> None:
    tokens_per_s(target, 16, tokens=2)


def tokens_per_s(target: Target, at_once: int, *, tokens: int, keys: Sequence[str] = (), model: str = "big") -> float:
    """Tokens a second of all streams together by the client's clock; tenants take turns."""
    prompts = [drawn_prompt(rng(f"speed {number}"), PROMPT) for number in range(at_once)]
    keys = keys or (target.keys.acme,)

    def tokens_of(number: int) -> int:
        key = keys[number % len(keys)]
        answer = complete(target, prompts[number], key=key, max_tokens=tokens, model=model)
        return int(answer["usage"]["completion_tokens"])

    start = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        made = sum(pool.map(tokens_of, range(at_once)))
    return made / (time.monotonic() - start)
