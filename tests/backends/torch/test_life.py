"""Load, plan, suspend, close, and what goes wrong on the way."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import torch

from backends.api import AdapterWeights, KVLimit, LoadableModel, Runner, RunnerCapabilities
from backends.errors import BackendError, CapacityExceeded, Fatal, ModelError, UnsupportedModel
from backends.models.spec import RopeScaling
from backends.registry import create_runner as create_by_name
from backends.testing.oracle import Oracle
from backends.torch import create_runner
from backends.torch.device import ERRORS
from backends.torch.runner import TorchRunner
from tests.backends.torch.drive import Part, make_runner, pool_of, run, step_of

A = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77]
ADAPTER = AdapterWeights(rank=1, scale=1.0, matrices={})
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."


def test_importing_the_package_is_cheap() -> None:
    """The gateway lists runners without loading torch."""
    code = "import sys, backends.torch, backends.registry; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_registry_knows_it() -> None:
    """The registry creates the runner by the name that `--backend torch` uses."""
    assert "paged" in create_by_name("torch", threads=1, exact=False).capabilities().kv_layouts


def test_missing_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the command that mends it."""
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(BackendError, match=r'pip install "hostelry\[torch\]"'):
        create_runner()


def test_an_old_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones lack an argument of attention."""
    monkeypatch.setattr("torch.__version__", "2.4.1")

    with pytest.raises(BackendError, match=r"torch 2\.4\.1 is too old"):
        create_runner()


def test_progress_rises_to_one(model: LoadableModel) -> None:
    """Many small steps, never backwards, ending at 1."""
    seen: list[float] = []

    create_runner(threads=1).load(model, seen.append)

    assert len(seen) > 10
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_loading_tells_what_the_model_is(model: LoadableModel) -> None:
    """float32 weights need no note on the CPU."""
    info = create_runner(threads=2).load(model, lambda _: None)

    assert (info.vocab_size, info.num_layers, info.device) == (512, 4, "cpu, 2 threads")
    assert info.notes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": RopeScaling(kind="yarn", factor=2.0)}, "'yarn' is not supported; supported are linear"),
        ({"activation": "relu"}, "'relu' is not supported; supported are silu, gelu_tanh"),
        ({"windows": (8, 0)}, "do not fit 4 layers"),
        ({"windows": (8, 0, -1, 0)}, "do not fit 4 layers"),
        ({"num_kv_heads": 3}, "4 heads cannot share 3 key heads"),
        ({"num_experts": 4}, "cannot have 0 of 4 experts"),
        ({"num_experts": 4, "experts_per_token": 5}, "cannot have 5 of 4 experts"),
    ],
)
def test_what_is_not_known_is_refused(model: LoadableModel, change: dict[str, object], message: str) -> None:
    """An unknown setting is refused at load and never gives wrong results."""
    odd = msgspec.structs.replace(model.spec, **change)

    with pytest.raises(UnsupportedModel, match=message):
        create_runner(threads=1).load(LoadableModel(spec=odd, tensors=model.tensors), lambda _: None)


@pytest.mark.parametrize(("layout", "blocks", "block_tokens"), [("slot", 4, 512), ("paged", 152, 16)])
def test_little_memory_gives_fewer_blocks(
    model: LoadableModel, layout: Literal["slot", "paged"], blocks: int, block_tokens: int
) -> None:
    """The plan stays within the limit and serves what fits."""
    runner = create_runner(threads=1)
    runner.load(model, lambda _: None)

    plan = runner.plan_memory(KVLimit(max_bytes=10_000_000, max_sequences=8, max_context=512, layout=layout))

    assert (plan.layout, plan.num_blocks, plan.block_tokens) == (layout, blocks, block_tokens)
    assert plan.num_blocks * plan.bytes_per_block <= 10_000_000
    assert pool_of(runner).keys[0].nbytes * 8 == plan.num_blocks * plan.bytes_per_block


@pytest.mark.parametrize("layout", ["slot", "paged"])
def test_too_little_memory_says_how_much_is_needed(model: LoadableModel, layout: Literal["slot", "paged"]) -> None:
    """The numbers are in the message."""
    runner = create_runner(threads=1)
    runner.load(model, lambda _: None)

    with pytest.raises(CapacityExceeded, match=r"512 tokens needs 2\.1 MB.*1\.0 MB are allowed"):
        runner.plan_memory(KVLimit(max_bytes=1_000_000, max_sequences=4, max_context=512, layout=layout))


def test_context_is_never_longer_than_the_models(model: LoadableModel) -> None:
    """Positions beyond the trained context would be invented."""
    runner = create_runner(threads=1)
    runner.load(model, lambda _: None)

    assert runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=1, max_context=10**6)).block_tokens == 1024


def test_suspend_frees_the_pool_and_resume_brings_it_back(model: LoadableModel, oracle: Oracle) -> None:
    """Steps in between are refused; KV is lost, the model is not."""
    runner = make_runner(model)
    runner.suspend()
    with pytest.raises(Fatal, match="plan_memory or resume comes first"):
        runner.submit(step_of(Part(0, A)))

    runner.resume()

    np.testing.assert_allclose(run(runner, Part(0, A))[0], oracle.logits(A)[-1], atol=1e-4)


def test_the_order_of_calls_is_kept(model: LoadableModel) -> None:
    """Each message says what comes first."""
    runner = create_runner(threads=1)
    with pytest.raises(Fatal, match="no model is loaded"):
        runner.plan_memory(KVLimit(max_bytes=1, max_sequences=1, max_context=1))
    runner.load(model, lambda _: None)
    with pytest.raises(Fatal, match="plan_memory comes first"):
        runner.resume()
    with pytest.raises(Fatal, match="plan_memory or resume comes first"):
        runner.warmup()


def test_close_may_be_called_twice(model: LoadableModel) -> None:
    """`close` may be called twice, and a closed runner can load again."""
    runner = make_runner(model)
    runner.close()
    runner.close()

    with pytest.raises(Fatal, match="no model is loaded"):
        runner.submit(step_of(Part(0, A)))
    runner.load(model, lambda _: None)


def test_tickets_are_collected_once(slotted: Runner) -> None:
    """A ticket is not collected twice, after a cancel, or after so many submits that they exceed the depth; foreign
    ones never.
    """
    stale, cancelled = slotted.submit(step_of(Part(0, A))), slotted.submit(step_of(Part(0, A)))
    cancelled.cancel()
    collected = slotted.submit(step_of(Part(0, A)))
    slotted.collect(collected)

    strange: Any = object()  # Any: the point is that it is no ticket
    for ticket in (stale, cancelled, collected, strange):
        with pytest.raises(Fatal, match="collected once, in the order of submit"):
            slotted.collect(ticket)


class DeepRunner(TorchRunner):
    """Runner as deep as on CUDA, where a step may still be running when the next one comes."""

    def capabilities(self) -> RunnerCapabilities:
        return msgspec.structs.replace(super().capabilities(), async_depth=2)


def test_two_tickets_are_collected_in_order(model: LoadableModel, oracle: Oracle) -> None:
    """Cancelled ones are passed over; the third submit gives up the oldest."""
    runner = DeepRunner(device=torch.device("cpu"), threads=1, exact=False)
    runner.load(model, lambda _: None)
    runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=4, max_context=256))
    lost, first, second = (runner.submit(step_of(Part(slot, A[: slot + 1]))) for slot in range(3))
    for early in (lost, second):
        with pytest.raises(Fatal, match="in the order of submit"):
            runner.collect(early)

    results = [runner.collect(first).logits, runner.collect(second).logits]
    cancelled, third = runner.submit(step_of(Part(0, A))), runner.submit(step_of(Part(1, A)))
    cancelled.cancel()
    results.append(runner.collect(third).logits)

    expected = oracle.logits(A)
    np.testing.assert_allclose(np.concatenate(results), expected[[1, 2, -1]], atol=1e-4)


def test_adapters_are_not_declared_and_refused(slotted: Runner) -> None:
    """The hooks exist and say so."""
    assert slotted.capabilities().lora_slots == 0
    with pytest.raises(CapacityExceeded, match="declares no LoRA"):
        slotted.put_adapter(0, ADAPTER)
    slotted.drop_adapter(0)


def test_copies_outside_the_pool_are_fatal(runner: Runner) -> None:
    """A negative index would wrap around."""
    for pair in ((0, 64), (-1, 0)):
        with pytest.raises(Fatal, match=r"cannot copy (slot|block)"):
            runner.copy_blocks([pair])


def test_stats_count(model: LoadableModel) -> None:
    """Steps and tokens, warm-up included."""
    runner = make_runner(model)
    before = runner.stats()

    run(runner, Part(0, A))

    assert runner.stats()["steps"] - before["steps"] == 1
    assert runner.stats()["tokens"] - before["tokens"] == len(A)


@pytest.mark.parametrize("error", [RuntimeError(NO_MEMORY), MemoryError()])
def test_want_of_memory_is_a_matter_of_capacity(error: Exception) -> None:
    """A lack of memory is `CapacityExceeded` in a step, and an error of the model while loading."""
    with pytest.raises(CapacityExceeded, match="not enough memory"), ERRORS.step():
        raise error
    with pytest.raises(ModelError, match="use a quantized one"), ERRORS.load():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), IndexError("index 5"), ValueError("x")])
def test_other_failures_of_a_step_are_fatal(error: Exception) -> None:
    """The state of the pool is not known then."""
    with pytest.raises(Fatal, match="torch: "), ERRORS.step():
        raise error
