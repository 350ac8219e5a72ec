"""Prompts take as much of a step as others' next tokens can bear."""

from __future__ import annotations

import pytest

from gateway.batching.admission import FirstComeFirstServed
from gateway.batching.kv.blocks import BlockAllocator
from gateway.batching.prefill_budget import LEAST_TOKENS, PrefillBudget
from gateway.batching.scheduler import Scheduler, StepLimits
from gateway.batching.sequence import Sequence
from tests.gateway.batching.making import VOCAB, make_add

MAX_SLOWDOWN = 3.0


def run(prefill_budget: PrefillBudget, *, decode_s: float, token_s: float, steps: int = 50) -> list[float]:
    """Seconds of steps in which a long prompt is computed along with eight decoding sequences."""
    taken = []
    for _ in range(steps):
        num_tokens = prefill_budget.prompt_tokens(num_decoding=8)
        taken.append(decode_s + num_tokens * token_s)
        prefill_budget.note(taken[-1], num_decoding=8, num_prompt_tokens=num_tokens)
    return taken


@pytest.mark.parametrize("token_s", [0.0001, 0.0005, 0.001])
def test_steps_with_prompts_stay_within_the_stretch(token_s: float) -> None:
    """Steps with prompts stay within the allowed slowdown once a decode step and the cost of a token are known, and use
    most of it.
    """
    prefill_budget = PrefillBudget(max_slowdown=MAX_SLOWDOWN, most_tokens=256)
    prefill_budget.note(0.010, num_decoding=8, num_prompt_tokens=0)

    _, *later = run(prefill_budget, decode_s=0.010, token_s=token_s)

    assert max(later) <= MAX_SLOWDOWN * 0.010
    assert sum(later) / len(later) >= 0.55 * MAX_SLOWDOWN * 0.010


def test_prompts_never_starve() -> None:
    """Prompts never starve, however slow they make a step."""
    prefill_budget = PrefillBudget(max_slowdown=MAX_SLOWDOWN, most_tokens=256)
    prefill_budget.note(0.001, num_decoding=1, num_prompt_tokens=0)

    run(prefill_budget, decode_s=0.001, token_s=1.0)

    assert prefill_budget.prompt_tokens(num_decoding=1) == LEAST_TOKENS


def test_nobody_decodes_nobody_is_late() -> None:
    """A prompt alone gets whole steps; so it does without a limit."""
    paced, free = (
        PrefillBudget(max_slowdown=MAX_SLOWDOWN, most_tokens=256),
        PrefillBudget(max_slowdown=0, most_tokens=256),
    )
    for prefill_budget in (paced, free):
        prefill_budget.note(0.001, num_decoding=1, num_prompt_tokens=0)
        run(prefill_budget, decode_s=0.001, token_s=1.0)

    assert paced.prompt_tokens(num_decoding=0) == 256
    assert free.prompt_tokens(num_decoding=8) == 256


def test_the_cost_of_tokens_is_learned_from_prompts_alone() -> None:
    """The first prompt along with a stream is limited already."""
    prefill_budget = PrefillBudget(max_slowdown=MAX_SLOWDOWN, most_tokens=256)
    prefill_budget.note(0.256, num_decoding=0, num_prompt_tokens=256)
    prefill_budget.note(0.010, num_decoding=1, num_prompt_tokens=0)

    assert prefill_budget.prompt_tokens(num_decoding=1) == 8


def test_the_scheduler_asks_for_every_step() -> None:
    """The first step is free, the next one knows what the first one's sequence can bear."""
    limits = StepLimits(max_sequences=4, max_step_tokens=64, max_context=256)
    prefill_budget = PrefillBudget(max_slowdown=MAX_SLOWDOWN, most_tokens=64)
    scheduler = Scheduler(
        limits, BlockAllocator(num_blocks=64, block_tokens=16), FirstComeFirstServed(), prefill_budget
    )
    for number, length in ((1, 4), (2, 100)):
        add = make_add(number, prompt=[1] * length)
        scheduler.add(Sequence(add, arrival=number, vocab_size=VOCAB))
    first = {chunk.sequence.id: chunk.num_tokens for chunk in scheduler.plan()}
    prefill_budget.note(0.010, num_decoding=1, num_prompt_tokens=0)
    prefill_budget.note(0.026, num_decoding=1, num_prompt_tokens=16)

    second = {chunk.sequence.id: chunk.num_tokens for chunk in scheduler.plan()}

    assert first == {1: 4, 2: 60}
    assert second == {1: 1, 2: 8}
