"""Log-probabilities of prompts, over the fake runner, whose logits depend on every key and value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backends.api import F32
from backends.testing.fake import FakeFaults
from backends.testing.greedy import step_of
from gateway.batching.loop import Loop
from gateway.batching.messages import Failure, Logprob, Output
from tests.gateway.batching.making import VOCAB, make_add, make_loop, make_runner, run_all, solo_tokens, tokens_of

PROMPT = [int(token) for token in np.random.default_rng(5).integers(0, VOCAB, 37)]


def expected_logprobs(prompt: list[int]) -> list[float]:
    """One token a step, straight from the runner."""
    runner = make_runner()
    rows: list[F32] = []
    for place, token in enumerate(prompt):
        rows.append(runner.collect(runner.submit(step_of([[token]], [place + 1]))).logits[0].astype(np.float64))
    totals = [float(np.log(np.exp(row).sum())) for row in rows]
    return [float(rows[place][token] - totals[place]) for place, token in enumerate(prompt[1:])]


def scores_of(outputs: list[Output], number: int) -> tuple[Logprob, ...]:
    [found] = [output.prompt_logprobs for output in outputs if output.id == number and output.prompt_logprobs]
    return found


def score_alone(loop: Loop, *, max_tokens: int = 0) -> list[Output]:
    assert loop.add(make_add(1, prompt=PROMPT, max_tokens=max_tokens, prompt_logprobs=2)) is None
    return run_all(loop)


@pytest.mark.parametrize("max_step_tokens", [4, 16, 64])
@pytest.mark.parametrize("max_logit_rows", [1, 3, 8])
def test_chunks_change_nothing(max_step_tokens: int, max_logit_rows: int) -> None:
    """Each token gets the log-probability that single steps give it, however the prompt is cut."""
    loop = make_loop(max_step_tokens=max_step_tokens, max_logit_rows=max_logit_rows)

    outputs = score_alone(loop)

    found = [score.logprob for score in scores_of(outputs, 1)]
    assert found == pytest.approx(expected_logprobs(PROMPT), abs=1e-5)
    assert [(output.token_ids, output.finish_reason) for output in outputs] == [((), "length")]


def test_scores_come_once_with_the_first_token() -> None:
    """Scoring changes nothing about what is generated."""
    outputs = score_alone(make_loop(), max_tokens=5)

    assert len(outputs[0].prompt_logprobs) == len(PROMPT) - 1
    assert [len(output.prompt_logprobs) for output in outputs[1:]] == [0] * 4
    assert tokens_of(outputs, 1) == solo_tokens(make_add(1, prompt=PROMPT, max_tokens=5))


def test_alternatives_are_the_best_ones() -> None:
    """Alternatives are as many as asked for, best first."""
    for score in scores_of(score_alone(make_loop()), 1):
        values = [value for _, value in score.top]

        assert len(values) == 2
        assert values == sorted(values, reverse=True)
        assert score.logprob <= values[0]


def test_company_and_preemption_change_nothing() -> None:
    """Every score is there once when others share the steps and memory runs out in between."""
    loop = make_loop(FakeFaults(capacity_at=(3, 5, 6)), max_step_tokens=24)
    for number in range(2, 6):
        loop.add(make_add(number, max_tokens=12))
    loop.add(make_add(1, prompt=PROMPT, max_tokens=3, prompt_logprobs=0))

    outputs = run_all(loop)

    assert [score.logprob for score in scores_of(outputs, 1)] == pytest.approx(expected_logprobs(PROMPT), abs=1e-5)
    for number in range(2, 6):
        assert tokens_of(outputs, number) == solo_tokens(make_add(number, max_tokens=12))


def test_one_token_has_nothing_to_score() -> None:
    """Nothing predicts the first token of a prompt."""
    loop = make_loop()
    loop.add(make_add(1, prompt=[3], max_tokens=0, prompt_logprobs=1))

    [output] = run_all(loop)

    assert (output.finish_reason, output.prompt_logprobs) == ("length", ())


def test_a_row_that_is_not_finite_ends_the_sequence() -> None:
    """Never a number that was not computed."""
    loop = make_loop(FakeFaults(nan_rows={1: 2}))

    outputs = score_alone(loop)

    assert [output.error for output in outputs] == [Failure("engine_failed", "non-finite logits")]
    assert not any(math.isnan(score.logprob) for output in outputs for score in output.prompt_logprobs)
