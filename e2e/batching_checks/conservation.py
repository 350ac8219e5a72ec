"""B5: what is computed is what is sold, and those that come together run together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from e2e.harness.completions import complete, drawn_prompt, engine, wait_idle
from e2e.harness.nonce import rng
from e2e.harness.running_server import Known, Target
from e2e.harness.timing import at_least, reach_nearly

AT_ONCE, PROMPT, TOKENS = 8, 10, 32
TOGETHER = {"B5: mean batch over what was offered": at_least(0.8)}


def check_b5(target: Target, known: Known) -> None:
    """Tokens of prompts and answers are counted once; the sum of all batches is their number."""
    reach_nearly(lambda: mean_batch(target), TOGETHER)


def mean_batch(target: Target) -> dict[str, float]:
    """One round of B5: what was computed is what was sold, and the mean of sequences in a step."""
    prompts = [drawn_prompt(rng(f"conservation {number}"), PROMPT) for number in range(AT_ONCE)]
    wait_idle(target, "big")
    before = engine(target, "big")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(
            pool.map(
                lambda prompt: complete(target, prompt, key=target.keys.acme, model="big", max_tokens=TOKENS), prompts
            )
        )

    spent = {name: value - before[name] for name, value in engine(target, "big").items()}
    assert spent["generated_tokens"] == sum(answer["usage"]["completion_tokens"] for answer in answers), spent
    assert spent["prefill_tokens"] + spent["cached_tokens"] == sum(a["usage"]["prompt_tokens"] for a in answers), spent
    chunks_that_gave_nothing = spent["batched_sequences"] - spent["generated_tokens"]
    assert 0 <= chunks_that_gave_nothing <= AT_ONCE, spent
    return dict.fromkeys(TOGETHER, spent["batched_sequences"] / spent["steps"] / AT_ONCE)
