"""Fast sampling agrees with the plain one, and with statistics."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.generation import Sampling
from gateway.batching.messages import Failure
from gateway.batching.penalties import Adjustments, are_needed
from gateway.batching.sampling.nucleus import draw, largest, uniform
from gateway.batching.sampling.sample import sample
from tests.gateway.batching.making import VOCAB, make_sequence
from tests.gateway.batching.reference_sampling import reference_distribution, reference_draw

F32 = npt.NDArray[np.float32]

FILTERS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.3),
    Sampling(temperature=2.5, top_p=0.9),
    Sampling(temperature=1.0, top_p=0.5),
    Sampling(temperature=1.0, top_p=1e-9),
    Sampling(temperature=1.0, top_k=5),
    Sampling(temperature=0.8, top_k=40, top_p=0.95),
    Sampling(temperature=1.0, min_p=0.05),
    Sampling(temperature=1.5, min_p=0.02, top_k=20, top_p=0.8),
    Sampling(temperature=1.0, top_k=10_000_000),
]
SCALES = (0.0, 0.05, 1.0, 8.0)


def make_row(*, seed: int, vocab: int, scale: float) -> F32:
    return (np.random.default_rng(seed).standard_normal(vocab) * scale).astype(np.float32)


@pytest.mark.parametrize("sampling", FILTERS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("vocab", [2, 300, 2000])
def test_draws_equal_the_reference(sampling: Sampling, scale: float, vocab: int) -> None:
    """Sampler and reference choose the same token for the same uniform number, flat or peaked."""
    row = make_row(seed=vocab, vocab=vocab, scale=scale)
    distribution = reference_distribution(row.tolist(), sampling)
    peak = float(row.max())

    for number in np.linspace(0.0, 0.999, 23).tolist():
        token = draw(row, peak, sampling, uniform=number)

        expected = reference_draw(distribution, number)
        # float32 weights move the border between adjacent tokens by about 1e-6 of the mass; there either is right.
        near = {reference_draw(distribution, max(0.0, number - 1e-5)), reference_draw(distribution, number + 1e-5)}
        assert token in {expected} | near


def test_ties_at_a_cut_keep_the_lower_ids() -> None:
    """The lower ids among equal logits are kept by top_k, as sorting by (logit, id) would."""
    row = np.zeros(8, dtype=np.float32)
    row[6] = 1.0

    ids = largest(row, 3)

    assert ids.tolist() == [0, 1, 6]


def test_nucleus_with_ties_keeps_as_few_as_needed() -> None:
    """Four equal tokens and top_p 0.5: exactly the first two can come."""
    row = np.zeros(4, dtype=np.float32)

    seen = {draw(row, 0.0, Sampling(top_p=0.5), uniform=number) for number in np.linspace(0, 0.999, 50).tolist()}

    assert seen == {0, 1}


@pytest.mark.parametrize("sampling", FILTERS)
def test_frequencies_follow_the_distribution(sampling: Sampling) -> None:
    """Chi-square over 4,000 counter-based draws stays below the 99.99 % quantile, with fixed seeds."""
    row = make_row(seed=3, vocab=12, scale=1.5)
    distribution = reference_distribution(row.tolist(), sampling)
    counts = np.zeros(12)
    for index in range(4000):
        counts[draw(row, float(row.max()), sampling, uniform=uniform(7, index))] += 1

    assert set(np.flatnonzero(counts).tolist()) <= set(distribution)
    usual = {token: probability for token, probability in distribution.items() if probability > 2e-3}
    chi_square = sum((counts[token] - 4000 * p) ** 2 / (4000 * p) for token, p in usual.items())
    # 99.99 % quantile for 11 degrees of freedom (NIST/SEMATECH e-Handbook, table 1.3.6.7.4, extended): 37.4
    assert chi_square < 37.4


def test_uniform_depends_on_seed_and_index_alone() -> None:
    """Numbers repeat for the same pair and differ for others; negative and huge seeds are seeds, too."""
    pairs = [(seed, index) for seed in (0, 1, -1, 2**63, 2**64 - 2) for index in range(5)]

    first = [uniform(*pair) for pair in pairs]
    again = [uniform(*pair) for pair in reversed(pairs)]

    assert first == again[::-1]
    assert len(set(first)) == len(pairs)
    assert all(0.0 <= number < 1.0 for number in first)


def test_uniform_is_uniform() -> None:
    """Mean and variance over indices and over seeds are those of [0, 1) within five standard errors."""
    for numbers in ([uniform(1, index) for index in range(4000)], [uniform(seed, 1) for seed in range(4000)]):
        assert abs(np.mean(numbers) - 0.5) < 5 * math.sqrt(1 / 12 / 4000)
        assert abs(np.var(numbers) - 1 / 12) < 5 * math.sqrt(1 / 180 / 4000)


def test_greedy_rows_take_the_first_maximum() -> None:
    """Greedy rows of a batch are the argmax of their row; of equals the lowest id."""
    logits = np.stack([make_row(seed=seed, vocab=VOCAB, scale=3.0) for seed in range(5)])
    logits[4] = 0.0

    sampled = sample(logits, [make_sequence(number) for number in range(5)])

    assert [one.token_id for one in sampled] == [*logits[:4].argmax(axis=1).tolist(), 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_row_with_a_non_finite_logit_ends_in_an_error(bad: float) -> None:
    """Only that row gets an error; the other is sampled as usual."""
    logits = np.zeros((2, VOCAB), dtype=np.float32)
    logits[0, 5] = bad
    logits[1, 9] = 1.0

    first, second = sample(logits, [make_sequence(0), make_sequence(1)])

    assert first.error == Failure("engine_failed", "non-finite logits")
    assert (second.token_id, second.error) == (9, None)


def test_row_of_minus_infinity_ends_in_an_error() -> None:
    """No finite logit is no answer."""
    (only,) = sample(np.full((1, VOCAB), -np.inf, dtype=np.float32), [make_sequence(0)])

    assert only.error == Failure("engine_failed", "non-finite logits")


def test_banned_token_never_comes() -> None:
    """A bias of -100 excludes even the certain token, sampled or greedy."""
    logits = np.zeros((1, VOCAB), dtype=np.float32)
    logits[0, 7] = 500.0
    for temperature in (0.0, 1.0):
        sequence = make_sequence(0, sampling=Sampling(temperature=temperature, logit_bias={7: -100.0}))

        (only,) = sample(logits, [sequence])

        assert only.token_id != 7


def test_banning_everything_is_an_error() -> None:
    """A sequence whose bias leaves no token ends with the reason."""
    banned = dict.fromkeys(range(VOCAB), -100.0)

    (only,) = sample(np.zeros((1, VOCAB), dtype=np.float32), [make_sequence(0, sampling=Sampling(logit_bias=banned))])

    assert only.error == Failure("engine_failed", "logit_bias leaves no token")


def test_bias_of_a_hundred_forces_a_token() -> None:
    """The OpenAI API's other extreme."""
    sequence = make_sequence(0, sampling=Sampling(temperature=1.0, logit_bias={3: 100.0}))

    (only,) = sample(make_row(seed=1, vocab=VOCAB, scale=3.0)[None], [sequence])

    assert only.token_id == 3


def test_logprobs_come_from_raw_logits() -> None:
    """Bias and temperature choose the token, but its log-probability is the model's own."""
    row = make_row(seed=5, vocab=VOCAB, scale=2.0)
    sequence = make_sequence(0, sampling=Sampling(temperature=0.0, logit_bias={3: 100.0}, logprobs=4))

    (only,) = sample(row[None], [sequence])

    wide = row.astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum())
    best = np.argsort(-expected)[:4]
    assert only.token_id == 3
    assert only.logprob is not None
    assert only.logprob.logprob == pytest.approx(expected[3], abs=1e-5)
    assert [token for token, _ in only.logprob.top] == best.tolist()
    assert [value for _, value in only.logprob.top] == pytest.approx(expected[best].tolist(), abs=1e-5)


def test_zero_logprobs_are_only_the_chosen_one() -> None:
    """`logprobs=0` lists no alternatives."""
    (only,) = sample(np.zeros((1, VOCAB), dtype=np.float32), [make_sequence(0, sampling=Sampling(logprobs=0))])

    assert only.logprob is not None
    assert only.logprob.logprob == pytest.approx(-math.log(VOCAB))
    assert only.logprob.top == ()


@given(
    repetition=st.sampled_from([1.0, 1.3, 0.7]),
    presence=st.sampled_from([0.0, 1.5, -0.5]),
    frequency=st.sampled_from([0.0, 0.8, -0.2]),
    output=st.lists(st.integers(0, 15), max_size=12),
)
def test_penalties_equal_their_definition(
    repetition: float, presence: float, frequency: float, output: list[int]
) -> None:
    """Token by token: repetition over prompt and output, presence and frequency over the output."""
    sampling = Sampling(repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency)
    prompt = [1, 2, 2]
    row = make_row(seed=8, vocab=16, scale=2.0)
    adjustments = Adjustments(sampling, prompt=prompt, vocab_size=16)
    for token in output:
        adjustments.count(token)

    adjusted = adjustments.apply(row)

    for token, value in enumerate(row.tolist()):
        if token in {*prompt, *output}:
            value = value / repetition if value > 0 else value * repetition
        value -= frequency * output.count(token) + presence * (token in output)
        assert adjusted[token] == pytest.approx(value, abs=1e-5)


def test_plain_requests_need_no_adjustments() -> None:
    """The fast path stays fast."""
    assert not are_needed(Sampling(temperature=0.7, top_p=0.9, top_k=40, min_p=0.1))
