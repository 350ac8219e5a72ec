"""Several sequences in a step: each as if it were alone."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from backends.api import F32, Step
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import expect, expect_rows
from backends.testing.kit.samples import random_tokens
from backends.testing.kit.subject import KitPart, KitSequence, KitSubject

_ROUNDS = 6


def check_decode_batch(bench: KitBench) -> None:
    subject = bench.subject()
    sequences = [subject.open() for _ in range(6)]
    tokens = [random_tokens(3 + 7 * index + _ROUNDS, seed=60 + index) for index in range(6)]
    for sequence, known in zip(sequences, tokens, strict=True):
        subject.reference.foresee(known)
        subject.run(KitPart(sequence, known[:-_ROUNDS]))
    for index in range(-_ROUNDS, 0):
        parts = [KitPart(sequence, [known[index]]) for sequence, known in zip(sequences, tokens, strict=True)]
        subject.confirm(*parts, what="a batch of decoding sequences of different lengths")


def check_ragged(bench: KitBench) -> None:
    subject = bench.subject()
    for seed in range(_ROUNDS):
        parts = _mixed_parts(subject, seed=70 + seed)
        subject.confirm(*parts, what="a step of prefill, chunk, decode and verify", sentence=contract.RAGGED)
        for part in parts:
            subject.close(part.sequence)


def _mixed_parts(subject: KitSubject, *, seed: int) -> list[KitPart]:
    """Parts in an order of the seed: a prefill, a chunk, two decodes and rows to verify; some without logits."""
    num_rows = min(4, subject.runner.capabilities().max_verify_rows)
    parts = [
        KitPart(subject.open(), random_tokens(13 + seed % 5, seed=seed)),
        KitPart(_started(subject, 9, seed=seed + 100), random_tokens(8, seed=seed + 200), rows=seed % 2),
        KitPart(_started(subject, 18, seed=seed + 300), [17]),
        KitPart(_started(subject, 1, seed=seed + 400), [18]),
        KitPart(_started(subject, 30, seed=seed + 500), random_tokens(4, seed=seed + 600), rows=num_rows),
    ]
    order = np.random.default_rng(seed).permutation(len(parts))
    return [parts[place] for place in order]


def _started(subject: KitSubject, length: int, *, seed: int) -> KitSequence:
    sequence = subject.open()
    subject.run(KitPart(sequence, random_tokens(length, seed=seed), rows=0))
    return sequence


def check_permuted(bench: KitBench) -> None:
    subject = bench.subject()
    prompts = [random_tokens(length, seed=80 + length) for length in (4, 9, 1)]
    expected = _by_prompt(subject, prompts, order=(0, 1, 2))
    for order in permutations(range(3)):
        found = _by_prompt(subject, prompts, order=order)
        what = f"a batch in the order {order}"
        expect_rows(found, expected, bench.tolerances.company, what=what, contract=contract.LOGITS)


def _by_prompt(subject: KitSubject, prompts: list[list[int]], *, order: tuple[int, ...]) -> F32:
    """Prefill in this order, then one token each; the logits of both, in the order of the prompts."""
    sequences = [subject.open() for _ in prompts]
    first = subject.run(*(KitPart(sequences[place], prompts[place]) for place in order))
    second = subject.run(*(KitPart(sequences[place], [90 + place]) for place in order))
    for sequence in sequences:
        subject.close(sequence)
    back = np.argsort(order)
    return np.concatenate([first[back], second[back]])


def check_company(bench: KitBench) -> None:
    subject = bench.subject()
    prompt, sequence = random_tokens(14, seed=91), subject.open()
    alone = [subject.run(KitPart(sequence, prompt)), subject.run(KitPart(sequence, [92]))]
    subject.close(sequence)
    others = [_started(subject, 20 + 9 * index, seed=93 + index) for index in range(3)]
    sequence = subject.open()
    beside = [
        subject.run(
            *(KitPart(other, random_tokens(5, seed=96), rows=0) for other in others), KitPart(sequence, prompt)
        ),
        subject.run(KitPart(sequence, [92]), *(KitPart(other, [97], rows=0) for other in others)),
    ]
    for found, expected in zip(beside, alone, strict=True):
        what = "a sequence in company"
        expect_rows(found, expected, bench.tolerances.company, what=what, contract=contract.RAGGED_BATCH)


def check_deterministic(bench: KitBench) -> None:
    subject = bench.subject()
    parts = _mixed_parts(subject, seed=98) if subject.runner.capabilities().ragged_steps else [_decode(subject)]
    step = subject.step(*parts)
    first = _logits(subject, step)
    for _ in range(5):
        expect(
            np.array_equal(_logits(subject, step), first),
            expected="the same bits from the same step",
            found="others",
            contract=contract.DETERMINISTIC,
        )


def _decode(subject: KitSubject) -> KitPart:
    return KitPart(_started(subject, 12, seed=99), [30])


def _logits(subject: KitSubject, step: Step) -> F32:
    """Run a step without counting its tokens: it can be run again."""
    return subject.collect(subject.runner.submit(step), num_rows=len(step.logit_rows))


def check_arrays_reused(bench: KitBench) -> None:
    subject = bench.subject()
    parts = [KitPart(_started(subject, 10, seed=101), [31]), KitPart(_started(subject, 5, seed=102), [32])]
    step = subject.step(*parts)
    ticket = subject.runner.submit(step)
    for array in (step.token_ids, step.positions, step.q_start, step.kv_len, step.slot, step.logit_rows, step.lora):
        array.fill(1)
    for table in (step.block_table, step.slot_map):
        if table is not None:
            table.fill(1)
    subject.advance(*parts)
    logits = subject.collect(ticket, num_rows=2)
    subject.compare(logits, *parts, what="a step whose arrays were overwritten after submit", sentence=contract.ARRAYS)
    again = [KitPart(part.sequence, [33]) for part in parts]
    subject.confirm(*again, what="the step after one whose arrays were overwritten", sentence=contract.ARRAYS)


CHECKS = (
    Check(
        name="decode_batch",
        claim="Sequences of different lengths decode together as they would alone.",
        run=check_decode_batch,
    ),
    Check(
        name="ragged",
        claim="Prefill, chunk, decode and verification share a step.",
        run=check_ragged,
        needs="ragged_steps",
    ),
    Check(
        name="permuted",
        claim="Rows follow their sequences, in whatever order these are named.",
        run=check_permuted,
        needs="ragged_steps",
    ),
    Check(
        name="company",
        claim="A sequence gets the same logits alone and beside others.",
        run=check_company,
        needs="ragged_steps",
    ),
    Check(
        name="deterministic",
        claim="The same step on the same state gives the same bits.",
        run=check_deterministic,
        needs="deterministic",
    ),
    Check(
        name="arrays_reused",
        claim="The arrays of a step may be overwritten once submit has returned.",
        run=check_arrays_reused,
    ),
)
