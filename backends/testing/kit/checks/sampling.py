"""Tokens picked by the runner, against a plain version that sorts everything."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from backends.api import F32, I64, RowSampling, Step
from backends.errors import Fatal
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import expect, expect_error
from backends.testing.kit.samples import POISON, random_tokens
from backends.testing.kit.subject import KitPart, KitSequence, KitSubject

F64 = npt.NDArray[np.float64]

_SEEDS = range(8)


class RowChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of one row; the defaults are off."""

    temperature: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


def check_sampling(bench: KitBench) -> None:
    subject = bench.subject()
    sequences = _prefilled(subject, 5)
    step = subject.step(*(KitPart(sequence, [20 + index]) for index, sequence in enumerate(sequences)))
    logits = subject.collect(subject.runner.submit(step), num_rows=len(sequences))
    for seed in _SEEDS:
        choices = [_choice(row, kind=(seed + index) % 6, seed=seed) for index, row in enumerate(logits)]
        wanted, uniform = _wanted(logits, choices, seed=seed)
        picked = pick(subject, step, sampling_of(choices, uniform))
        expect(
            np.array_equal(picked, wanted),
            expected=f"tokens {wanted.tolist()} for {choices} at {uniform.round(6).tolist()}",
            found=picked.tolist(),
            contract=f"{contract.FILTERS} … {contract.CUMULATIVE}",
        )


def _prefilled(subject: KitSubject, count: int) -> list[KitSequence]:
    sequences = [subject.open() for _ in range(count)]
    for index, sequence in enumerate(sequences):
        subject.run(KitPart(sequence, random_tokens(4 + 5 * index, seed=260 + index), rows=0))
    return sequences


def _choice(row: F32, *, kind: int, seed: int) -> RowChoice:
    """Filters whose cuts are in the middle between two tokens, so that rounding moves none across."""
    place, temperature = 2 + seed % 7, 0.5 + seed / 5
    falling = np.sort(_weights(row, temperature))[::-1]
    cumulative = np.cumsum(falling) / falling.sum()
    top_p = float(cumulative[place - 1] + cumulative[place]) / 2
    min_p = float(falling[place] + falling[place + 1]) / 2
    return (
        RowChoice(temperature=0.0),
        RowChoice(temperature=temperature),
        RowChoice(temperature=temperature, top_k=place),
        RowChoice(temperature=temperature, top_p=top_p),
        RowChoice(temperature=temperature, min_p=min_p),
        RowChoice(temperature=temperature, min_p=min_p, top_k=max(1, place - 1), top_p=0.999),
    )[kind]


def _wanted(logits: F32, choices: list[RowChoice], *, seed: int) -> tuple[I64, F64]:
    """The token that each row should give, and a `uniform` in the middle of its share."""
    drawn = np.random.default_rng(seed).random(len(choices))
    tokens, uniforms = [], []
    for row, choice, place in zip(logits, choices, drawn, strict=True):
        ends = np.cumsum(reference_shares(row, choice))
        token = int(np.searchsorted(ends, place, side="right"))
        start = ends[token - 1] if token else 0.0
        tokens.append(token)
        uniforms.append((start + ends[token]) / 2)
    return np.array(tokens, np.int64), np.array(uniforms)


def reference_shares(row: F32, choice: RowChoice) -> F64:
    """float64 `[vocab]`: the probability of each token after temperature, min_p, top_k and top_p."""
    if choice.temperature == 0:
        greedy: F64 = np.eye(1, len(row), int(row.argmax()))[0]
        return greedy
    weights = _weights(row, choice.temperature)
    weights[weights < choice.min_p] = 0.0
    falling = np.argsort(-weights, kind="stable")
    kept = falling[: choice.top_k or len(row)]
    cumulative = np.cumsum(weights[kept]) / weights[kept].sum()
    if choice.top_p < 1:
        kept = kept[: int(np.searchsorted(cumulative, choice.top_p)) + 1]
    shares = np.zeros(len(row))
    shares[kept] = weights[kept] / weights[kept].sum()
    return shares


def _weights(row: F32, temperature: float) -> F64:
    """float64 `[vocab]`, 1 for the most likely token."""
    weights: F64 = np.exp((row.astype(np.float64) - float(row.max())) / temperature)
    return weights


def sampling_of(choices: list[RowChoice], uniform: F64) -> RowSampling:
    return RowSampling(
        temperature=np.array([choice.temperature for choice in choices], np.float32),
        min_p=np.array([choice.min_p for choice in choices], np.float32),
        top_k=np.array([choice.top_k for choice in choices], np.int32),
        top_p=np.array([choice.top_p for choice in choices], np.float32),
        uniform=uniform,
    )


def greedy_rows(count: int) -> RowSampling:
    return sampling_of([RowChoice(temperature=0.0)] * count, np.full(count, 0.5))


def pick(subject: KitSubject, step: Step, sampling: RowSampling) -> I64:
    """int64 `[R]`: what the runner picks; the step may be run again."""
    result = subject.runner.collect(subject.runner.submit(msgspec.structs.replace(step, sampling=sampling)))
    num_rows = len(step.logit_rows)
    token_ids = result.token_ids
    expect(
        token_ids is not None and token_ids.dtype == np.int64 and token_ids.shape == (num_rows,),
        expected=f"int64 [{num_rows}] token ids",
        found=token_ids,
        contract=contract.NOT_FINITE,
    )
    expect(
        result.logits.shape == (0, subject.info.vocab_size),
        expected="no logits beside the tokens",
        found=result.logits.shape,
        contract=contract.WITH_SAMPLING,
    )
    assert token_ids is not None
    return token_ids.copy()


def check_sampling_ties(bench: KitBench) -> None:
    """Compares with the runner's own logits, which tie wherever products do not depend on the position of a column."""
    subject = bench.subject(model=bench.samples.twinned)
    sequences = _prefilled(subject, 5)
    step = subject.step(*(KitPart(sequence, [20 + index]) for index, sequence in enumerate(sequences)))
    wanted = subject.collect(subject.runner.submit(step), num_rows=len(sequences)).argmax(axis=1)
    picked = pick(subject, step, greedy_rows(len(sequences)))
    expect(
        np.array_equal(picked, wanted),
        expected=f"tokens {wanted.tolist()}, the first of each pair",
        found=picked.tolist(),
        contract=contract.GREEDY,
    )


def check_sampling_not_finite(bench: KitBench) -> None:
    subject = bench.subject(model=bench.samples.poisoned)
    clean, ill = _prefilled(subject, 2)
    part = KitPart(clean, [85])
    step = subject.step(KitPart(ill, [POISON]), part)
    subject.advance(part)
    best = int(clean.reference.rows(clean.tokens, 1)[0].argmax())
    for choice in (RowChoice(temperature=0.0), RowChoice(top_k=1)):
        picked = pick(subject, step, sampling_of([choice] * 2, np.full(2, 0.5)))
        expect(
            picked.tolist() == [-1, best],
            expected=f"tokens [-1, {best}] where the first row is NaN",
            found=picked.tolist(),
            contract=contract.NOT_FINITE,
        )


def check_sampling_chain(bench: KitBench) -> None:
    """Negative ids name rows of the step before, which need not have been collected."""
    subject = bench.subject()
    sequences = _prefilled(subject, 3)
    first = subject.step(*(KitPart(sequence, [30 + index]) for index, sequence in enumerate(sequences)))
    subject.advance(*(KitPart(sequence, [30 + index]) for index, sequence in enumerate(sequences)))
    wanted = [int(sequence.reference.rows(sequence.tokens, 1)[0].argmax()) for sequence in sequences]
    for order in ((0, 1, 2), (2, 0, 1)):
        second = subject.step(*(KitPart(sequence, [-1 - row]) for sequence, row in zip(sequences, order, strict=True)))
        logits = _chained(subject, msgspec.structs.replace(first, sampling=greedy_rows(3)), second)
        parts = [KitPart(sequence, [wanted[row]]) for sequence, row in zip(sequences, order, strict=True)]
        subject.advance(*parts)
        what = f"tokens named as rows {order} of the step before"
        subject.compare(logits, *parts, what=what, sentence=contract.REFERENCE_TO_ROW)
        for sequence in sequences:
            subject.rewind(sequence, len(sequence) - 1)
    _refuse_unknown_rows(subject, sequences, first)


def _chained(subject: KitSubject, first: Step, second: Step) -> F32:
    ticket = subject.runner.submit(first)
    if subject.runner.capabilities().async_depth == 1:
        subject.runner.collect(ticket)
        return subject.collect(subject.runner.submit(second), num_rows=len(second.logit_rows))
    after = subject.runner.submit(second)
    subject.runner.collect(ticket)
    return subject.collect(after, num_rows=len(second.logit_rows))


def _refuse_unknown_rows(subject: KitSubject, sequences: list[KitSequence], first: Step) -> None:
    beyond = subject.step(*(KitPart(sequence, [-1 - len(sequences)]) for sequence in sequences))
    pick(subject, first, greedy_rows(3))
    expect_error(
        Fatal,
        lambda: subject.runner.collect(subject.runner.submit(beyond)),
        when="a token id that names a row beyond those of the step before",
        contract=contract.REFERENCE_TO_ROW,
    )
    parts = [KitPart(sequence, [86]) for sequence in sequences]
    subject.confirm(*parts, what="a step after one that was refused", sentence=contract.INTACT)


CHECKS = (
    Check(
        name="sampling",
        claim="Tokens are picked greedily or by temperature, min_p, top_k and top_p, to the letter.",
        run=check_sampling,
        needs="device_sampling",
    ),
    Check(
        name="sampling_ties",
        claim="Greedy picks the lowest of equals.",
        run=check_sampling_ties,
        needs="device_sampling",
    ),
    Check(
        name="sampling_not_finite",
        claim="A row that is not finite gives -1, and only that row.",
        run=check_sampling_not_finite,
        needs="device_sampling",
    ),
    Check(
        name="sampling_chain",
        claim="Negative token ids stand for what the step before picked.",
        run=check_sampling_chain,
        needs="device_sampling",
    ),
)
