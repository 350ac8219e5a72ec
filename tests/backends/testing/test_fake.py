"""The fake runner shows wrong KV handling, and fails when told to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from backends.api import KVLimit, LoadableModel, Runner, Step
from backends.errors import CapacityExceeded, Fatal, Retryable, UnsupportedModel
from backends.models.spec import ModelSpec
from backends.testing.fake import FAULTS_VARIABLE, FakeFaults, FakeRunner, create_fake_runner

MODEL = LoadableModel(
    spec=ModelSpec(
        family="fake",
        hidden_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        ffn_size=8,
        vocab_size=50,
        max_context=32,
    ),
    tensors={},
)


def make_runner(faults: FakeFaults | None = None) -> FakeRunner:
    runner = FakeRunner(faults)
    runner.load(MODEL, lambda _: None)
    runner.plan_memory(KVLimit(max_bytes=1 << 20, max_sequences=4, max_context=32))
    return runner


def make_step(*parts: tuple[int, int, list[int]]) -> Step:
    """Each part is (slot, first position, tokens); the last token of each wants logits."""
    lengths = [len(tokens) for _, _, tokens in parts]
    ends = np.cumsum(lengths)
    return Step(
        token_ids=np.array([token for _, _, tokens in parts for token in tokens], dtype=np.int64),
        positions=np.array(
            [start + place for _, start, tokens in parts for place in range(len(tokens))], dtype=np.int32
        ),
        q_start=np.array([0, *ends], dtype=np.int32),
        kv_len=np.array([start + len(tokens) for _, start, tokens in parts], dtype=np.int32),
        slot=np.array([slot for slot, _, _ in parts], dtype=np.int32),
        logit_rows=(ends - 1).astype(np.int32),
        lora=np.full(len(parts), -1, dtype=np.int32),
    )


def run(runner: FakeRunner, *parts: tuple[int, int, list[int]]) -> npt.NDArray[np.float32]:
    return runner.collect(runner.submit(make_step(*parts))).logits


def test_it_is_a_runner() -> None:
    """The type checker agrees, too."""
    runner: Runner = make_runner()

    assert runner.capabilities().kv_layouts == ("slot", "paged")


def test_chunks_and_company_change_nothing() -> None:
    """A prompt in one piece, in chunks, or in a batch with another gives the same logits."""
    whole = run(make_runner(), (0, 0, [1, 2, 3, 4]))
    runner = make_runner()
    run(runner, (2, 0, [1, 2]), (1, 0, [9]))

    chunked = run(runner, (1, 1, [8]), (2, 2, [3, 4]))

    assert np.array_equal(chunked[1], whole[0])


@pytest.mark.parametrize("wrong", [(0, [1, 2, 9]), (0, [2, 1, 3]), (1, [1, 2, 3])])
def test_every_key_matters(wrong: tuple[int, list[int]]) -> None:
    """Another token, another order or another slot's past gives other logits."""
    slot, tokens = wrong
    right, other = make_runner(), make_runner()
    run(right, (0, 0, [1, 2, 3]), (1, 0, [7, 7, 7]))
    run(other, (0, 0, tokens), (1, 0, [7, 7, 7]))

    assert not np.array_equal(run(right, (0, 3, [4])), run(other, (slot, 3, [4])))


def test_failed_step_ruins_what_it_wrote() -> None:
    """Failed steps ruin their own KV entries: a caller that does not write those tokens again reads garbage."""
    runner = make_runner(FakeFaults(retryable_at=(2,)))
    run(runner, (0, 0, [1, 2]))
    with pytest.raises(Retryable):
        run(runner, (0, 2, [3]))

    careless = run(runner, (0, 3, [4]))
    run(runner, (0, 2, [3]))
    careful = run(runner, (0, 3, [4]))

    assert not np.array_equal(careless, careful)
    assert np.array_equal(careful, run(make_runner(), (0, 0, [1, 2, 3, 4])))


def test_truncated_tokens_are_gone_and_copied_ones_are_there() -> None:
    """`truncate` and `copy_blocks` mean what the contract says."""
    runner = make_runner()
    run(runner, (0, 0, [1, 2, 3]))
    runner.copy_blocks([(0, 3)])
    runner.truncate(0, 1)

    assert not np.array_equal(run(runner, (0, 3, [4])), run(runner, (3, 3, [4])))
    assert np.array_equal(run(runner, (3, 3, [4])), run(make_runner(), (0, 0, [1, 2, 3, 4])))


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        (FakeFaults(capacity_at=(1,)), CapacityExceeded),
        (FakeFaults(retryable_at=(1,)), Retryable),
        (FakeFaults(fatal_at=(1,)), Fatal),
        (FakeFaults(max_sequences=1), CapacityExceeded),
    ],
)
def test_ordered_fault_comes(faults: FakeFaults, error: type[Exception]) -> None:
    """An ordered fault is raised at its step and with its type."""
    with pytest.raises(error):
        run(make_runner(faults), (0, 0, [1]), (1, 0, [2]))


def test_ordered_row_is_not_a_number() -> None:
    """Only that row."""
    logits = run(make_runner(FakeFaults(nan_rows={1: 1})), (0, 0, [1]), (1, 0, [2]))

    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1]).all()


@pytest.mark.parametrize(
    "step",
    [
        make_step((0, 0, [1]), (0, 0, [2])),
        make_step((0, 0, [50])),
        make_step((0, 0, [])),
    ],
)
def test_broken_step_is_refused(step: Step) -> None:
    """One slot twice, outside the vocabulary, or without tokens."""
    with pytest.raises(Fatal):
        make_runner().submit(step)


def test_sequence_that_is_too_long_is_refused() -> None:
    """A sequence longer than the planned context is refused."""
    with pytest.raises(CapacityExceeded, match="33 tokens exceeds the planned context of 32"):
        make_runner().submit(make_step((0, 31, [1, 2])))


def test_too_little_memory_is_refused() -> None:
    """A memory limit in which no sequence fits is refused."""
    runner = FakeRunner()
    runner.load(MODEL, lambda _: None)

    with pytest.raises(CapacityExceeded, match="one sequence of 32 tokens needs"):
        runner.plan_memory(KVLimit(max_bytes=255, max_sequences=4, max_context=32))


def test_faults_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake in another process can be ordered to fail, too."""
    monkeypatch.setenv(FAULTS_VARIABLE, '{"load_failure": "no such tensor"}')

    with pytest.raises(UnsupportedModel, match="no such tensor"):
        create_fake_runner().load(MODEL, lambda _: None)


def test_closed_runner_refuses() -> None:
    """`close` may be called twice; steps are over."""
    runner = make_runner()
    runner.close()
    runner.close()

    with pytest.raises(Fatal, match="closed"):
        run(runner, (0, 0, [1]))
