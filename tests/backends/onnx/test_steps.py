"""float32 steps against the oracle: however a sequence is cut up and whoever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from backends.api import LoadableModel, Runner
from backends.errors import CapacityExceeded, Fatal
from backends.loading import open_model
from backends.onnx.runner import OnnxRunner
from backends.testing.models import FamilyName, make_random_model
from backends.testing.oracle import Oracle
from tests.backends.onnx.drive import Part, make_runner, run, step_of

A = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77]
B = [400, 3, 3, 250, 19]
TOLERANCE = {"atol": 1e-4}


def test_prefill_and_decode(runner: Runner, oracle: Oracle) -> None:
    """A prompt at once, then token by token."""
    expected = oracle.logits(A)

    first = run(runner, Part(0, A[:6]))
    later = [run(runner, Part(0, [A[i]], start=i)) for i in range(6, 10)]

    np.testing.assert_allclose(np.concatenate([first, *later]), expected[5:], **TOLERANCE)


@pytest.mark.parametrize("split", range(1, len(A)))
def test_chunked_prefill_at_every_split(runner: Runner, oracle: Oracle, split: int) -> None:
    """Where a prompt is cut does not matter."""
    run(runner, Part(1, A[:split], rows=0))

    logits = run(runner, Part(1, A[split:], start=split, rows=len(A) - split))

    np.testing.assert_allclose(logits, oracle.logits(A)[split:], **TOLERANCE)


@pytest.mark.parametrize(("slot_a", "slot_b"), [(0, 1), (1, 0), (3, 0), (2, 3)])
def test_mixed_ragged_steps(runner: Runner, oracle: Oracle, slot_a: int, slot_b: int) -> None:
    """Decode, chunk and idle slots share a step, in any slots and any order."""
    run(runner, Part(slot_a, A[:9]))

    mixed = run(runner, Part(slot_b, B[:4]), Part(slot_a, [A[9]], start=9))
    after = run(runner, Part(slot_b, [B[4]], start=4))

    np.testing.assert_allclose(mixed, [oracle.logits(B)[3], oracle.logits(A)[9]], **TOLERANCE)
    np.testing.assert_allclose(after[0], oracle.logits(B)[4], **TOLERANCE)


def test_several_verify_rows_equal_single_steps(runner: Runner, oracle: Oracle) -> None:
    """Speculation reads several rows of one sequence."""
    run(runner, Part(0, A[:5]))

    logits = run(runner, Part(0, A[5:], start=5, rows=5))

    np.testing.assert_allclose(logits, oracle.logits(A)[5:], **TOLERANCE)


def test_truncated_sequence_continues_elsewhere(runner: Runner, oracle: Oracle) -> None:
    """What lies behind the kept tokens is never read."""
    run(runner, Part(0, A))
    runner.truncate(0, 4)
    other = [*A[:4], 9, 8]

    logits = run(runner, Part(0, [9, 8], start=4, rows=2))

    np.testing.assert_allclose(logits, oracle.logits(other)[4:], **TOLERANCE)


def test_copied_slot_continues_alone(runner: Runner, oracle: Oracle) -> None:
    """A copy is a copy, not an alias."""
    run(runner, Part(0, A[:6]))
    runner.copy_blocks([(0, 2)])
    run(runner, Part(0, [1], start=6))

    logits = run(runner, Part(2, A[6:], start=6))

    np.testing.assert_allclose(logits[0], oracle.logits(A)[9], **TOLERANCE)


def test_poison_in_free_slots_is_never_read(model: LoadableModel, oracle: Oracle) -> None:
    """NaN in every byte of KV that a sequence has not written leaves no trace."""
    runner = make_runner(model)
    assert isinstance(runner, OnnxRunner)
    assert runner._binding is not None
    for array in (*runner._binding.pool.keys, *runner._binding.pool.values):
        array.fill(np.nan)

    logits = run(runner, Part(3, A), Part(1, B))

    np.testing.assert_allclose(logits, [oracle.logits(A)[-1], oracle.logits(B)[-1]], **TOLERANCE)


def test_kv_is_written_in_place(model: LoadableModel) -> None:
    """Past and present are one buffer: the pool itself changes, and only where tokens were written."""
    runner = make_runner(model)
    assert isinstance(runner, OnnxRunner)
    assert runner._binding is not None
    keys = runner._binding.pool.keys[0]
    keys.fill(0)

    run(runner, Part(1, A))

    assert np.abs(keys[1, :, : len(A)]).min(axis=-1).max() > 0
    assert not keys[1, :, len(A) :].any()
    assert not keys[[0, 2, 3]].any()


def test_a_step_without_wanted_rows_returns_none(runner: Runner, model: LoadableModel) -> None:
    """A prefill chunk that is not the last asks for nothing and gets nothing."""
    assert run(runner, Part(0, A, rows=0)).shape == (0, model.spec.vocab_size)


def test_more_than_the_slots_hold_is_refused(runner: Runner) -> None:
    """The engine learns it as a typed error, and sequences that were there stay intact."""
    with pytest.raises(CapacityExceeded, match="4 slots of 256"):
        runner.submit(step_of(Part(4, A)))

    with pytest.raises(CapacityExceeded):
        runner.submit(step_of(Part(0, A, start=250)))


def test_a_ticket_is_collected_once(runner: Runner) -> None:
    """A second collect, or one after a cancel, is a mistake of the caller."""
    ticket = runner.submit(step_of(Part(0, A)))
    runner.collect(ticket)
    cancelled = runner.submit(step_of(Part(0, A)))
    cancelled.cancel()

    for used in (ticket, cancelled):
        with pytest.raises(Fatal, match="collected once"):
            runner.collect(used)


def test_suspend_gives_memory_back_and_resume_starts_empty(model: LoadableModel, oracle: Oracle) -> None:
    """After a pause the runner works as before."""
    runner = make_runner(model)
    runner.suspend()

    with pytest.raises(Fatal, match="resume"):
        runner.submit(step_of(Part(0, A)))

    runner.resume()
    np.testing.assert_allclose(run(runner, Part(0, A))[0], oracle.logits(A)[-1], **TOLERANCE)


def test_greedy_equals_the_oracle_over_64_tokens(runner: Runner, oracle: Oracle) -> None:
    """Errors do not add up."""
    expected, gaps = oracle.greedy_with_gaps(A, 64)
    assert min(gaps) > 1e-4

    made, logits = [], run(runner, Part(0, A))
    for position in range(len(A), len(A) + 64):
        made.append(int(logits[0].argmax()))
        logits = run(runner, Part(0, [made[-1]], start=position))

    assert made == expected


def test_memory_does_not_grow(runner: Runner) -> None:
    """300 steps of changing shape leave the process as large as it was."""
    import psutil

    def steps(count: int) -> None:
        for i in range(count):
            run(runner, Part(i % 4, A[: 1 + i % 9]), Part((i + 1) % 4, B))

    steps(100)
    before = psutil.Process().memory_info().rss
    steps(300)

    assert psutil.Process().memory_info().rss - before < 8e6


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_families_equal_transformers(family: FamilyName, tmp_path: Path) -> None:
    """The runner itself, not only the oracle, gives the field's ids over 64 tokens."""
    folder = make_random_model(tmp_path / family, family=family, seed=3)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    runner = make_runner(open_model(folder))
    tokens, logits = list(A), run(runner, Part(0, A))
    for position in range(len(A), len(A) + 64):
        tokens.append(int(logits[0].argmax()))
        logits = run(runner, Part(0, [tokens[-1]], start=position))

    with torch.no_grad():
        expected = reference(torch.tensor([tokens])).logits[0].argmax(-1).tolist()

    assert tokens[len(A) :] == expected[len(A) - 1 : -1]
