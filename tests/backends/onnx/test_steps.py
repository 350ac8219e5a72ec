"""float32 steps against the oracle: however a sequence is cut up and whatever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from backends.api import F32, LoadableModel, Runner
from backends.loading import open_model
from backends.models.spec import RopeScaling
from backends.testing.models import FamilyName, make_random_model
from backends.testing.oracle import Oracle
from tests.backends.onnx.drive import Part, Script, make_runner, run, slots_of

A = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77]
B = [400, 3, 3, 250, 19]
TOLERANCE = 1e-4


def test_prefill_and_decode(runner: Runner, oracle: Oracle) -> None:
    """A prompt at once, then token by token."""
    expected = oracle.logits(A)

    first = run(runner, Part(0, A[:6]))
    later = [run(runner, Part(0, [A[i]], start=i)) for i in range(6, 10)]

    np.testing.assert_allclose(np.concatenate([first, *later]), expected[5:], atol=TOLERANCE)


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


def test_several_verify_rows_equal_single_steps(runner: Runner, oracle: Oracle) -> None:
    """Speculation reads several rows of one sequence."""
    run(runner, Part(0, A[:5]))

    logits = run(runner, Part(0, A[5:], start=5, rows=5))

    np.testing.assert_allclose(logits, oracle.logits(A)[5:], atol=TOLERANCE)


def test_truncated_sequence_continues_elsewhere(runner: Runner, oracle: Oracle) -> None:
    """Cache entries behind the kept tokens are never read."""
    run(runner, Part(0, A))
    runner.truncate(0, 4)
    other = [*A[:4], 9, 8]

    logits = run(runner, Part(0, [9, 8], start=4, rows=2))

    np.testing.assert_allclose(logits, oracle.logits(other)[4:], atol=TOLERANCE)


def test_copied_slot_continues_alone(runner: Runner, oracle: Oracle) -> None:
    """A copy is a copy, not an alias."""
    run(runner, Part(0, A[:6]))
    runner.copy_blocks([(0, 2)])
    run(runner, Part(0, [1], start=6))

    logits = run(runner, Part(2, A[6:], start=6))

    np.testing.assert_allclose(logits[0], oracle.logits(A)[9], atol=TOLERANCE)


@pytest.mark.usefixtures("operators")
def test_poison_in_free_slots_is_never_read(model: LoadableModel, oracle: Oracle) -> None:
    """NaN in every byte of KV that a sequence has not written leaves no trace."""
    runner = make_runner(model)
    for slots in slots_of(runner):
        slots.fill(0xFF)

    logits = run(runner, Part(3, A), Part(1, B))

    np.testing.assert_allclose(logits, [oracle.logits(A)[-1], oracle.logits(B)[-1]], atol=TOLERANCE)


@pytest.mark.usefixtures("operators")
def test_a_poisoned_sequence_leaves_nothing_in_its_slot(model: LoadableModel, oracle: Oracle) -> None:
    """Another sequence takes over a slot full of NaN, next to an idle one full of NaN, longer than it by then."""
    runner = make_runner(model)
    run(runner, Part(0, A), Part(1, A), Part(2, B))
    for slots in slots_of(runner):
        slots[:2] = 0xFF

    first = run(runner, Part(2, A[5:7], start=5), Part(0, B[:3]))
    second = run(runner, Part(0, B[3:], start=3))

    np.testing.assert_allclose(first, [oracle.logits([*B, *A[5:7]])[-1], oracle.logits(B)[2]], atol=TOLERANCE)
    np.testing.assert_allclose(second[0], oracle.logits(B)[-1], atol=TOLERANCE)


@pytest.mark.usefixtures("operators")
def test_kv_is_written_in_place(model: LoadableModel) -> None:
    """Past and present are one buffer: the pool itself changes, and only in the slot of the step."""
    runner = make_runner(model)
    for slots in slots_of(runner):
        slots.fill(0)

    run(runner, Part(1, A))

    assert all(slots[1].any() for slots in slots_of(runner))
    assert not any(slots[[0, 2, 3]].any() for slots in slots_of(runner))


def test_a_step_without_wanted_rows_returns_none(runner: Runner, model: LoadableModel) -> None:
    """A prefill chunk that is not the last asks for nothing and gets nothing."""
    assert run(runner, Part(0, A, rows=0)).shape == (0, model.spec.vocab_size)


@pytest.fixture(scope="module")
def greedy(oracle: Oracle) -> list[int]:
    """64 tokens after A, none of which was a near thing."""
    tokens, gaps = oracle.greedy_with_gaps(A, 64)
    assert min(gaps) > 1e-4
    return tokens


def test_greedy_equals_the_oracle_over_64_tokens(runner: Runner, greedy: list[int]) -> None:
    """Errors do not add up."""

    made, logits = [], run(runner, Part(0, A))
    for position in range(len(A), len(A) + 64):
        made.append(int(logits[0].argmax()))
        logits = run(runner, Part(0, [made[-1]], start=position))

    assert made == greedy


def test_sequences_come_and_go_at_random(runner: Runner, oracle: Oracle) -> None:
    """60 steps: any subset of slots, in any order, with any number of new tokens and wanted rows."""
    rng = np.random.default_rng(7)
    sequences: dict[int, list[int]] = {}
    script = Script()
    for _ in range(60):
        parts = []
        for slot in rng.permutation(4)[: rng.integers(1, 5)].tolist():
            if slot in sequences and (rng.random() < 0.1 or len(sequences[slot]) > 60):
                del sequences[slot]
            known = sequences.setdefault(slot, [])
            new = rng.integers(0, 512, rng.choice([1, 1, 1, 3, 17])).tolist()
            parts.append(Part(slot, new, start=len(known), rows=int(rng.integers(0, min(len(new), 3) + 1))))
            known += new

        script.note(run(runner, *parts), parts, sequences)

    script.confirm(oracle, atol=TOLERANCE)


def test_log_probabilities_equal_the_oracle(runner: Runner, oracle: Oracle) -> None:
    """Log probabilities, which users see, are as close as the logits."""

    def log_softmax(x: F32) -> F32:
        shifted = x - x.max(axis=-1, keepdims=True)
        log_probabilities: F32 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return log_probabilities

    logits = run(runner, Part(0, A, rows=len(A)))

    np.testing.assert_allclose(log_softmax(logits), log_softmax(oracle.logits(A)), atol=TOLERANCE)


def test_the_same_step_gives_the_same_bits(runner: Runner) -> None:
    """Declared as deterministic: threads split outputs, never sums."""
    assert runner.capabilities().deterministic
    first = run(runner, Part(0, A, rows=10), Part(2, B))

    for _ in range(20):
        np.testing.assert_array_equal(run(runner, Part(0, A, rows=10), Part(2, B)), first)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling(kind="linear", factor=4.0),
        RopeScaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64),
    ],
)
def test_scaled_rotary(tmp_path: Path, scaling: RopeScaling) -> None:
    """Both kinds of frequency scaling, far beyond the original context."""
    model = open_model(make_random_model(tmp_path / "model", rope_scaling=scaling))
    tokens = A * 20
    runner = make_runner(model)
    run(runner, Part(0, tokens[:-1]))

    logits = run(runner, Part(0, tokens[-1:], start=len(tokens) - 1))

    np.testing.assert_allclose(logits[0], Oracle(model).logits(tokens)[-1], atol=TOLERANCE)


@pytest.mark.usefixtures("operators")
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
