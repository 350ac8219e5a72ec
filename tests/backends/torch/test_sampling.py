"""Tokens drawn on the device are those that the gateway would draw, and may be used without seeing the host."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch

from backends.api import F32, I64, LoadableModel, RowSampling, Runner, Step
from backends.errors import Fatal
from backends.generation import Sampling
from backends.testing.oracle import Oracle
from backends.torch.sampling import pick
from gateway.batching.sampling.nucleus import draw
from tests.backends.torch.drive import Part, make_runner, poison, step_of

A = [11, 200, 45, 301, 7]
Column = npt.ArrayLike


def rows(
    count: int,
    *,
    temperature: Column = 1.0,
    min_p: Column = 0.0,
    top_k: Column = 0,
    top_p: Column = 1.0,
    uniform: Column = 0.5,
) -> RowSampling:
    return RowSampling(
        temperature=np.full(count, temperature, np.float32),
        min_p=np.full(count, min_p, np.float32),
        top_k=np.full(count, top_k, np.int32),
        top_p=np.full(count, top_p, np.float32),
        uniform=np.full(count, uniform, np.float64),
    )


def picked(logits: F32, sampling: RowSampling) -> list[int]:
    return pick(torch.from_numpy(logits), sampling).tolist()


def reference(logits: F32, sampling: RowSampling) -> list[int]:
    """Row by row, as the gateway does."""
    return [_reference_row(row, sampling, r) for r, row in enumerate(logits)]


def _reference_row(row: F32, sampling: RowSampling, r: int) -> int:
    if not np.isfinite(row.max()):
        return -1
    if sampling.temperature[r] == 0:
        return int(row.argmax())
    plain = Sampling(
        temperature=float(sampling.temperature[r]),
        min_p=float(sampling.min_p[r]),
        top_k=int(sampling.top_k[r]),
        top_p=float(sampling.top_p[r]),
    )
    return draw(row, float(row.max()), plain, uniform=float(sampling.uniform[r]))


@pytest.mark.parametrize("vocab", [1, 2, 37, 512, 1500, 6000])
@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_rows_is_drawn_as_the_gateway_draws(vocab: int, seed: int) -> None:
    """Flat and peaked rows, banned tokens, every filter alone and with others, greedy rows between."""
    rng = np.random.default_rng([vocab, seed])
    count = 48
    spread = rng.choice([0.1, 1.0, 5.0, 20.0], (count, 1))
    logits = (rng.standard_normal((count, vocab)) * spread).astype(np.float32)
    logits[:, 1:][rng.random((count, vocab - 1)) < 0.1] = -np.inf
    sampling = rows(
        count,
        temperature=rng.choice([0.0, 0.3, 1.0, 1.7], count),
        min_p=rng.choice([0.0, 0.0, 0.01, 0.3, 1.0], count),
        top_k=rng.choice([0, 0, 1, 5, 600, 10**6], count),
        top_p=rng.choice([1.0, 1.0, 0.95, 0.5, 0.01, 0.0], count),
        uniform=rng.random(count),
    )

    assert picked(logits, sampling) == reference(logits, sampling)


@pytest.mark.parametrize("top_k", [0, 3, 40])
@pytest.mark.parametrize("top_p", [1.0, 0.75, 0.5, 0.25])
@pytest.mark.parametrize("vocab", [64, 2048])
def test_ties_at_a_cut_keep_the_lower_ids(vocab: int, top_p: float, top_k: int) -> None:
    """Three values only, so that every cut falls among equals; weights are powers of two, so that sums are exact."""
    rng = np.random.default_rng(vocab)
    logits = (rng.integers(0, 3, (40, vocab)) * np.log(2)).astype(np.float32)
    sampling = rows(40, top_k=top_k, top_p=top_p, uniform=(np.arange(40) + 0.37) / 40)

    assert picked(logits, sampling) == reference(logits, sampling)


def test_greedy_takes_the_lowest_of_equals() -> None:
    """Greedy sampling takes the lowest of equal tokens, and temperature zero needs no randomness."""
    assert picked(np.array([[1, 3, 3, 2]], np.float32), rows(1, temperature=0.0)) == [1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_are_not_finite_pick_nothing(temperature: float) -> None:
    """Rows with NaN, infinity or no finite value at all pick nothing; the other rows are unaffected."""
    good = np.arange(8, dtype=np.float32) * 9
    bad = np.stack([good, good, good, np.full_like(good, -np.inf)])
    bad[1, 3], bad[2, 3] = np.nan, np.inf

    assert picked(bad, rows(4, temperature=temperature, top_p=0.9, top_k=3)) == [7, -1, -1, -1]


def test_the_ends_of_uniform() -> None:
    """0 takes the first token that is kept, the largest float below 1 the last."""
    logits = np.array([[-np.inf, 0, 0, 0, -np.inf]] * 2, np.float32)

    assert picked(logits, rows(2, uniform=[0.0, np.nextafter(1.0, 0.0)])) == [1, 3]


def test_no_rows_pick_nothing() -> None:
    """A step may ask for no logits."""
    assert picked(np.empty((0, 8), np.float32), rows(0)) == []


def with_sampling(step: Step, sampling: RowSampling, *, token_ids: list[int] | None = None) -> Step:
    ids = step.token_ids if token_ids is None else np.array(token_ids, np.int64)
    return msgspec.structs.replace(step, sampling=sampling, token_ids=ids)


def tokens_of(runner: Runner, step: Step) -> I64:
    result = runner.collect(runner.submit(step))
    assert result.logits.shape == (0, 512)
    assert result.token_ids is not None
    assert result.token_ids.dtype == np.int64
    return result.token_ids


def test_a_sampled_step_returns_tokens(runner: Runner, oracle: Oracle) -> None:
    """Greedy and drawn rows in one step."""
    sampling = rows(3, temperature=[0.0, 1.0, 2.0], top_k=[0, 0, 50], uniform=[0.0, 0.9, 0.2])

    tokens = tokens_of(runner, with_sampling(step_of(Part(0, A, rows=2), Part(2, [1, 2])), sampling))

    logits = np.stack([*oracle.logits(A)[-2:], oracle.logits([1, 2])[-1]])
    assert tokens.tolist() == reference(logits, sampling)


def test_tokens_of_the_step_before_need_not_come_back(runner: Runner, oracle: Oracle) -> None:
    """-1 - r is what row r picked; other ids are taken as they are."""
    greedy = rows(2, temperature=0.0)
    first = tokens_of(runner, with_sampling(step_of(Part(0, A), Part(2, [1, 2])), greedy)).tolist()
    crossed = step_of(Part(2, [0, 9], start=2), Part(0, [0], start=5))

    second = tokens_of(runner, with_sampling(crossed, greedy, token_ids=[-2, 9, -1])).tolist()

    assert first == [oracle.greedy(A, 1)[0], oracle.greedy([1, 2], 1)[0]]
    assert second == [oracle.greedy([1, 2, first[1], 9], 1)[0], oracle.greedy([*A, first[0]], 1)[0]]


def test_tokens_of_a_cancelled_step_are_still_there(runner: Runner, oracle: Oracle) -> None:
    """Tokens of a cancelled step can be used, though the host never saw them."""
    greedy = rows(1, temperature=0.0)
    runner.submit(with_sampling(step_of(Part(0, A)), greedy)).cancel()

    tokens = tokens_of(runner, with_sampling(step_of(Part(0, [0], start=5)), greedy, token_ids=[-1]))

    assert tokens.tolist() == oracle.greedy(A, 2)[1:]


def test_a_row_that_failed_harms_nobody(model: LoadableModel, oracle: Oracle) -> None:
    """A failed row picks -1. The next step may name it before the host has seen that; the other sequence goes on."""
    runner, greedy = make_runner(model), rows(2, temperature=0.0)
    tokens_of(runner, with_sampling(step_of(Part(0, A)), rows(1)))
    poison(runner)

    first = tokens_of(runner, with_sampling(step_of(Part(0, [1], start=5), Part(1, A)), greedy)).tolist()
    both = step_of(Part(0, [0], start=6), Part(1, [0], start=5))
    second = tokens_of(runner, with_sampling(both, greedy, token_ids=[-1, -2])).tolist()

    assert first == [-1, oracle.greedy(A, 1)[0]]
    assert second == [-1, oracle.greedy(A, 2)[1]]


@pytest.mark.parametrize("token_id", [-2, -100])
def test_references_to_rows_that_were_not_picked_are_fatal(runner: Runner, token_id: int) -> None:
    """References to rows that were not picked are fatal, also to a step that returned logits."""
    step = with_sampling(step_of(Part(0, [0], start=5)), rows(1), token_ids=[token_id])
    tokens_of(runner, with_sampling(step_of(Part(0, A)), rows(1)))
    with pytest.raises(Fatal, match="picked no such token"):
        runner.submit(step)

    runner.collect(runner.submit(step_of(Part(0, A))))

    with pytest.raises(Fatal, match="refers to row 0, and the step before picked no"):
        runner.submit(msgspec.structs.replace(step, token_ids=np.array([-1])))
