"""Load, plan, suspend, close, and what goes wrong on the way."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable

import msgspec
import numpy as np
import onnxruntime.capi.onnxruntime_pybind11_state as native
import psutil
import pytest

from backends.api import AdapterWeights, KVLimit, LoadableModel, Runner
from backends.errors import BackendError, CapacityExceeded, Fatal, ModelError, UnsupportedModel
from backends.onnx import create_runner
from backends.onnx.errors import ERRORS
from backends.onnx.runner import OnnxRunner
from backends.testing.oracle import Oracle
from tests.backends.onnx.drive import Part, make_runner, run, step_of

A = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77]
B = [400, 3, 3, 250, 19]
ADAPTER = AdapterWeights(rank=1, scale=1.0, matrices={})


def binding_of(runner: Runner) -> object:
    assert isinstance(runner, OnnxRunner)
    return runner._kv


def test_importing_the_package_is_cheap() -> None:
    """The gateway lists runners without loading onnxruntime."""
    code = "import sys, backends.onnx; sys.exit(bool({'onnxruntime', 'onnx'} & sys.modules.keys()))"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("package", ["onnxruntime", "onnx"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    """The error is the command that mends it."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from backends.onnx import create_runner\n"
        "from backends.errors import BackendError\n"
        "try:\n    create_runner()\nexcept BackendError as error:\n    print(error)"
    )

    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)

    assert 'pip install "hostelry[onnx]"' in done.stdout


@pytest.mark.usefixtures("operators")
def test_progress_rises_to_one(model: LoadableModel) -> None:
    """Many small steps, never backwards, ending at 1."""
    seen: list[float] = []

    create_runner(threads=1).load(model, seen.append)

    assert len(seen) > 10
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.usefixtures("operators")
def test_a_head_size_that_attention_refuses_is_refused_at_load(model: LoadableModel) -> None:
    """A head size that attention refuses is refused at load, not in the first step."""
    odd = msgspec.structs.replace(model.spec, head_dim=24)

    with pytest.raises(UnsupportedModel, match="head_dim is 24"):
        create_runner().load(LoadableModel(spec=odd, tensors=model.tensors), lambda _: None)


@pytest.mark.usefixtures("operators")
def test_too_little_memory_says_how_much_is_needed(model: LoadableModel) -> None:
    """The numbers are in the message."""
    runner = create_runner(threads=1)
    runner.load(model, lambda _: None)

    with pytest.raises(CapacityExceeded, match=r"512 tokens needs 2\.1 MB.*1\.0 MB are allowed"):
        runner.plan_memory(KVLimit(max_bytes=1_000_000, max_sequences=4, max_context=512))


@pytest.mark.usefixtures("operators")
def test_little_memory_gives_fewer_slots(model: LoadableModel) -> None:
    """The plan stays within the limit and serves what fits."""
    runner = create_runner(threads=1)
    runner.load(model, lambda _: None)

    plan = runner.plan_memory(KVLimit(max_bytes=10_000_000, max_sequences=8, max_context=512))

    assert plan.layout == "slot"
    assert plan.num_blocks == 4, "of 2.1 MB each"


@pytest.mark.usefixtures("operators")
def test_context_is_never_longer_than_the_models(model: LoadableModel) -> None:
    """Rotary tables beyond the trained context would be invented."""
    runner = create_runner(threads=1)
    runner.load(model, lambda _: None)

    plan = runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=1, max_context=10**6))

    assert plan.block_tokens == model.spec.max_context


@pytest.mark.usefixtures("operators")
def test_kv_memory_is_taken_as_tokens_come(model: LoadableModel) -> None:
    """A large plan takes no memory until it is used, also where the heap has space from earlier."""
    runner = create_runner(threads=1)
    runner.load(model, lambda _: None)
    warm_heap = [np.ones(2**22, np.float32) for _ in range(4)]
    del warm_heap
    before = psutil.Process().memory_info().rss

    plan = runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=64, max_context=1024))
    runner.warmup()

    assert plan.num_blocks * plan.bytes_per_block > 250e6
    assert psutil.Process().memory_info().rss - before < 30e6


def test_memory_does_not_grow(runner: Runner) -> None:
    """300 steps of changing shape leave the process as large as it was."""

    def steps(count: int) -> None:
        for i in range(count):
            run(runner, Part(i % 4, A[: 1 + i % 9]), Part((i + 1) % 4, B))

    steps(100)
    before = psutil.Process().memory_info().rss
    steps(300)

    assert psutil.Process().memory_info().rss - before < 8e6


@pytest.mark.usefixtures("operators")
def test_more_slot_ranges_than_bindings_are_kept(model: LoadableModel, oracle: Oracle) -> None:
    """Bindings come and go; results do not change."""
    runner = make_runner(model, slots=14, context=32)

    pairs = itertools.combinations(range(14), 2)
    *_, logits = (run(runner, Part(last, B), Part(first, A)) for first, last in pairs)

    np.testing.assert_allclose(logits, [oracle.logits(B)[-1], oracle.logits(A)[-1]], atol=1e-4)


def test_a_ticket_is_collected_once(runner: Runner) -> None:
    """A ticket is not collected twice, nor after a cancel, nor after the next submit, which overwrites its logits."""
    collected = runner.submit(step_of(Part(0, A)))
    runner.collect(collected)
    cancelled = runner.submit(step_of(Part(0, A)))
    cancelled.cancel()
    forgotten = runner.submit(step_of(Part(0, A)))
    runner.collect(runner.submit(step_of(Part(0, A))))

    for used in (collected, cancelled, forgotten):
        with pytest.raises(Fatal, match="collected once"):
            runner.collect(used)


@pytest.mark.usefixtures("operators")
def test_suspend_gives_memory_back_and_resume_starts_empty(model: LoadableModel, oracle: Oracle) -> None:
    """A resumed runner works as it did ahead of the pause."""
    runner = make_runner(model)
    runner.suspend()

    with pytest.raises(Fatal, match="resume"):
        runner.submit(step_of(Part(0, A)))

    runner.resume()
    np.testing.assert_allclose(run(runner, Part(0, A))[0], oracle.logits(A)[-1], atol=1e-4)


@pytest.mark.usefixtures("operators")
def test_a_closed_runner_refuses_work(model: LoadableModel) -> None:
    """Closing twice is fine; everything else says what is missing."""
    runner = make_runner(model)
    runner.close()
    runner.close()

    attempts: list[Callable[[], object]] = [
        lambda: runner.submit(step_of(Part(0, A))),
        lambda: runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=1, max_context=8)),
        runner.resume,
        lambda: runner.copy_blocks([(0, 1)]),
    ]
    for attempt in attempts:
        with pytest.raises(Fatal, match=r"no model is loaded|no KV memory"):
            attempt()
    assert binding_of(runner) is None


def test_adapters_are_refused_as_declared(runner: Runner) -> None:
    """Capabilities and behaviour agree."""
    slots = runner.capabilities().lora_slots
    reason = f"there are {slots} slots" if slots else "with Hostelry's kernels only"

    with pytest.raises(CapacityExceeded, match=reason):
        runner.put_adapter(slots, ADAPTER)
    runner.drop_adapter(slots)


def test_copies_outside_the_pool_are_refused(runner: Runner) -> None:
    """A negative slot would be the last one to NumPy."""
    for pair in ((0, 4), (-1, 0)):
        with pytest.raises(Fatal, match="cannot copy slot"):
            runner.copy_blocks([pair])


@pytest.mark.parametrize(
    ("raised", "in_step", "at_load"),
    [
        (native.RuntimeException("Failed to allocate memory for requested buffer"), CapacityExceeded, ModelError),
        (RuntimeError("std::bad_alloc"), CapacityExceeded, ModelError),
        (MemoryError(), CapacityExceeded, ModelError),
        (native.Fail("node failed"), Fatal, ModelError),
        (native.InvalidArgument("bad shape"), Fatal, ModelError),
        (RuntimeError("Error in execution"), Fatal, ModelError),
    ],
)
def test_errors_of_onnxruntime_are_translated(
    raised: Exception, in_step: type[BackendError], at_load: type[BackendError]
) -> None:
    """Memory shrinks the batch, everything else restarts the engine; the cause is kept."""
    with pytest.raises(in_step) as step, ERRORS.step():
        raise raised
    with pytest.raises(at_load), ERRORS.load("refused the graph on cpu"):
        raise raised

    assert step.value.__cause__ is raised


@pytest.mark.usefixtures("operators")
def test_statistics_count_steps_and_tokens(model: LoadableModel) -> None:
    """Numbers rise with use."""
    runner = make_runner(model)
    before = runner.stats()

    run(runner, Part(0, A), Part(1, B))

    assert runner.stats()["steps"] - before["steps"] == 1
    assert runner.stats()["tokens"] - before["tokens"] == 15


@pytest.mark.usefixtures("operators")
def test_memory_that_the_system_refuses_is_a_matter_of_capacity(
    model: LoadableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan beyond the machine is refused with numbers, not with a crash."""

    def refuse(fd: int, length: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    runner = create_runner(threads=1)
    runner.load(model, lambda _: None)
    monkeypatch.setattr("backends.onnx.kv.slots.mmap.mmap", refuse)

    with pytest.raises(CapacityExceeded, match=r"MB for (the )?keys (and|or) values.*Cannot allocate"):
        runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=4, max_context=512))


@pytest.mark.usefixtures("operators")
def test_suspended_memory_leaves_the_process(model: LoadableModel) -> None:
    """KV that was used goes back to the system at once."""
    runner = make_runner(model, slots=4, context=1024)
    for slot in range(4):
        run(runner, Part(slot, [1] * 1000, rows=0))
    used = psutil.Process().memory_info().rss

    runner.suspend()

    assert used - psutil.Process().memory_info().rss > 12e6
