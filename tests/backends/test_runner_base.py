"""The life cycle that runners share, on the fake runner; runners and the kit test the rest."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from backends.api import AdapterWeights, KVLimit, LoadableModel, Runner, RunnerCapabilities
from backends.errors import CapacityExceeded, Fatal, LibraryErrors, ModelError
from backends.models.spec import ModelSpec
from backends.steps import probe_step
from backends.testing.fake import FakeRunner

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


class DeepRunner(FakeRunner):
    """Two steps may be outstanding."""

    def capabilities(self) -> RunnerCapabilities:
        return msgspec.structs.replace(super().capabilities(), async_depth=2)


@pytest.fixture
def runner() -> Runner:
    runner = DeepRunner()
    runner.load(MODEL, lambda _: None)
    runner.plan_memory(KVLimit(max_bytes=1 << 20, max_sequences=4, max_context=32))
    return runner


def test_a_cancelled_ticket_is_not_outstanding(runner: Runner) -> None:
    """The step that follows it does not cancel the older one."""
    first, cancelled = runner.submit(probe_step(0, 2)), runner.submit(probe_step(2, 3))
    cancelled.cancel()
    second = runner.submit(probe_step(2, 3))

    results = [runner.collect(ticket).logits for ticket in (first, second)]

    assert [logits.shape for logits in results] == [(1, 50), (1, 50)]


def test_the_oldest_ticket_beyond_the_depth_is_cancelled(runner: Runner) -> None:
    """The two later ones are still there."""
    first, second, third = (runner.submit(probe_step(0, 2)) for _ in range(3))

    with pytest.raises(Fatal, match="collected once, in the order of submit"):
        runner.collect(first)
    runner.collect(second)
    runner.collect(third)


def test_a_copy_out_of_range_copies_nothing(runner: Runner) -> None:
    """The pair before it is not copied, either."""
    runner.submit(probe_step(0, 2)).cancel()
    assert isinstance(runner, FakeRunner)
    before = runner.kv.copy()

    with pytest.raises(Fatal, match="cannot copy slot 0 to 4: there are 4"):
        runner.copy_blocks([(0, 1), (0, 4)])

    assert np.array_equal(runner.kv, before)


def test_adapters_are_refused_by_default(runner: Runner) -> None:
    """Adapters are refused by default, and dropping a missing one is no error."""
    with pytest.raises(CapacityExceeded, match="slot 0, rank 1: the fake runner declares no LoRA"):
        runner.put_adapter(0, AdapterWeights(rank=1, scale=1.0, matrices={}))
    runner.drop_adapter(0)


@pytest.mark.parametrize(
    ("raised", "in_step", "at_load"),
    [
        (MemoryError("1 GB"), CapacityExceeded, ModelError),
        (RuntimeError("Out of memory: 1 GB"), CapacityExceeded, ModelError),
        (RuntimeError("shape"), Fatal, ModelError),
        (KeyError("a bug"), KeyError, KeyError),
    ],
)
def test_exceptions_of_a_library_are_mapped(
    raised: Exception, in_step: type[Exception], at_load: type[Exception]
) -> None:
    """Kinds and words decide; what is not listed passes unchanged."""
    kinds = (MemoryError, RuntimeError)
    errors = LibraryErrors(library="lib", in_steps=kinds, at_load=kinds, memory_words=("out of memory",))

    with pytest.raises(in_step), errors.step():
        raise raised
    with pytest.raises(at_load), errors.load():
        raise raised
