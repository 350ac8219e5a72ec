"""float32 steps against the oracle, in both KV layouts: however a sequence is cut up and whatever is in the batch."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import torch

from backends.api import KVLimit, LoadableModel, Runner
from backends.kv import KVLayout
from backends.loading import open_model
from backends.testing.models import make_random_model
from backends.testing.oracle import Oracle
from tests.backends.torch.drive import Part, make_runner, poison, run, step_of

A = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77]
B = [400, 3, 3, 250, 19]
TOLERANCE = 1e-4


def test_prefill_and_decode(runner: Runner, oracle: Oracle) -> None:
    """A prompt at once, then token by token."""
    first = run(runner, Part(0, A[:6]))
    later = [run(runner, Part(0, [A[i]], start=i)) for i in range(6, 10)]

    np.testing.assert_allclose(np.concatenate([first, *later]), oracle.logits(A)[5:], atol=TOLERANCE)


@pytest.mark.parametrize("split", range(1, len(A)))
def test_chunked_prefill_at_every_split(runner: Runner, oracle: Oracle, split: int) -> None:
    """The position at which a prompt is cut does not matter."""
    run(runner, Part(1, A[:split], rows=0))

    logits = run(runner, Part(1, A[split:], start=split, rows=len(A) - split))

    np.testing.assert_allclose(logits, oracle.logits(A)[split:], atol=TOLERANCE)


@pytest.mark.parametrize(("slot_a", "slot_b"), [(0, 1), (1, 0), (3, 0), (2, 3)])
def test_mixed_ragged_steps(runner: Runner, oracle: Oracle, slot_a: int, slot_b: int) -> None:
    """Decode, chunk and idle slots share a step, in any slots and any order."""
    run(runner, Part(slot_a, A[:9]))

    mixed = run(runner, Part(slot_b, B[:4]), Part(slot_a, [A[9]], start=9))
    after = run(runner, Part(slot_b, [B[4]], start=4))

    np.testing.assert_allclose(mixed, [oracle.logits(B)[3], oracle.logits(A)[9]], atol=TOLERANCE)
    np.testing.assert_allclose(after[0], oracle.logits(B)[4], atol=TOLERANCE)


def test_verify_and_truncate(runner: Runner, oracle: Oracle) -> None:
    """A draft's rows are those of single steps; a rejected one leaves no trace."""
    run(runner, Part(0, A[:5]))

    rows = run(runner, Part(0, [A[5], A[6], 499, 498], start=5, rows=4), Part(2, B))
    runner.truncate(0, 7)
    after = run(runner, Part(0, A[7:], start=7, rows=3))

    np.testing.assert_allclose(rows[:2], oracle.logits(A)[5:7], atol=TOLERANCE)
    np.testing.assert_allclose(rows[2:4], oracle.logits([*A[:7], 499, 498])[7:], atol=TOLERANCE)
    np.testing.assert_allclose(after, oracle.logits(A)[7:], atol=TOLERANCE)


def test_any_rows_may_be_asked(runner: Runner, oracle: Oracle) -> None:
    """Any rows may be requested, not only the last ones."""
    step = msgspec.structs.replace(step_of(Part(0, A)), logit_rows=np.array([0, 3, 4, 8], np.int32))

    logits = runner.collect(runner.submit(step)).logits

    np.testing.assert_allclose(logits, oracle.logits(A)[step.logit_rows], atol=TOLERANCE)


def test_a_step_without_wanted_rows_returns_none(runner: Runner, model: LoadableModel) -> None:
    """A prefill chunk that is not the last asks for nothing and gets nothing."""
    assert run(runner, Part(0, A, rows=0)).shape == (0, model.spec.vocab_size)


def test_more_queries_than_one_attention_call_takes(tmp_path: Path) -> None:
    """A chunk is cut into calls of 256 queries; the cut shows nowhere."""
    model = open_model(make_random_model(tmp_path / "model", seed=2))
    runner = make_runner(model)
    runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=1, max_context=700))
    tokens = np.random.default_rng(0).integers(0, 512, 600).tolist()
    wanted = [0, 255, 256, 290, 511, 512, 589]
    run(runner, Part(0, tokens[:10], rows=0))

    step = step_of(Part(0, tokens[10:], start=10, rows=len(wanted)))
    step.logit_rows[:] = wanted
    logits = runner.collect(runner.submit(step)).logits

    np.testing.assert_allclose(logits, Oracle(model).logits(tokens)[np.add(wanted, 10)], atol=TOLERANCE)


@pytest.mark.parametrize("layout", ["slot", "paged"])
def test_sequences_come_and_go_at_random(model: LoadableModel, oracle: Oracle, layout: KVLayout) -> None:
    """30 steps of any sequences in any order; memory that was never written is NaN and never shows."""
    runner = make_runner(model, layout=layout)
    poison(runner)
    rng = np.random.default_rng(7)
    sequences: dict[int, list[int]] = {}
    for _ in range(30):
        parts = []
        for slot in rng.permutation(4)[: rng.integers(1, 5)].tolist():
            if slot in sequences and (rng.random() < 0.1 or len(sequences[slot]) > 60):
                del sequences[slot]
            known = sequences.setdefault(slot, [])
            new = rng.integers(0, 512, rng.choice([1, 1, 1, 3, 17])).tolist()
            parts.append(Part(slot, new, start=len(known), rows=int(rng.integers(0, min(len(new), 3) + 1))))
            known += new

        logits = run(runner, *parts)

        expected = [oracle.logits(sequences[part.slot])[-part.rows :] for part in parts if part.rows]
        np.testing.assert_allclose(logits, np.concatenate([*expected, np.empty((0, 512))]), atol=TOLERANCE)


def test_a_copied_sequence_continues_on_its_own(slotted: Runner, oracle: Oracle) -> None:
    """Copies go in order, whole slots, all layers."""
    run(slotted, Part(0, A))
    slotted.copy_blocks([(0, 2), (2, 3)])
    run(slotted, Part(0, B))

    logits = run(slotted, Part(3, [9], start=len(A)), Part(0, [7], start=len(B)))

    np.testing.assert_allclose(logits, [oracle.logits([*A, 9])[-1], oracle.logits([*B, 7])[-1]], atol=TOLERANCE)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_step_gives_the_same_bits(model: LoadableModel, threads: int) -> None:
    """Declared as deterministic on the CPU, whatever the number of threads."""
    runner = make_runner(model, threads=threads)
    assert runner.capabilities().deterministic
    first = run(runner, Part(0, A, rows=10), Part(2, B))

    repeated = [run(runner, Part(0, A, rows=10), Part(2, B)) for _ in range(20)]
    torch.set_num_threads(1)  # it is the process's number

    for logits in repeated:
        np.testing.assert_array_equal(logits, first)


def test_memory_does_not_grow(runner: Runner) -> None:
    """150 mixed steps leave the process as large as the first 50 made it."""

    def steps(count: int) -> int:
        for i in range(count):
            run(runner, Part(0, A * 5, rows=i % 3), Part(1, [1], start=i % 200), Part(3, B, start=2))
        return int(psutil.Process().memory_info().rss)

    settled = steps(50)

    assert steps(150) - settled < 4 * 2**20
