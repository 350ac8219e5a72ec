"""The binding of devices, run on the CPU: KV that stays where it is, in place or copied."""

from __future__ import annotations

import numpy as np
import pytest

from backends.api import KVLimit, LoadableModel, Runner
from backends.errors import Fatal
from backends.onnx.kv.on_device import DeviceBinding, kv_inputs
from backends.onnx.runner import OnnxRunner
from backends.testing.oracle import Oracle
from tests.backends.onnx.drive import Part, Script, make_runner, run, step_of

A = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77]
B = [400, 3, 3, 250, 19]


def binding_of(runner: Runner) -> DeviceBinding:
    assert isinstance(runner, OnnxRunner)
    assert isinstance(runner.kv, DeviceBinding)
    return runner.kv


@pytest.fixture(scope="module", params=["device", "copying device"])
def on_device(request: pytest.FixtureRequest, model: LoadableModel) -> Runner:
    return make_runner(model, device=request.param)


def test_sequences_come_and_go_at_random(on_device: Runner, oracle: Oracle) -> None:
    """25 steps: any subset of slots, in any order, with any number of new tokens and wanted rows."""
    rng = np.random.default_rng(3)
    sequences: dict[int, list[int]] = {}
    script = Script()
    for _ in range(25):
        parts = []
        for slot in rng.permutation(4)[: rng.integers(1, 5)].tolist():
            if slot in sequences and rng.random() < 0.2:
                del sequences[slot]
            known = sequences.setdefault(slot, [])
            new = rng.integers(0, 512, rng.choice([1, 1, 3, 17])).tolist()
            parts.append(Part(slot, new, start=len(known), rows=int(rng.integers(0, min(len(new), 3) + 1))))
            known += new

        script.note(run(on_device, *parts), parts, sequences)

    script.confirm(oracle, atol=1e-4)


def test_a_copied_slot_continues_alone(on_device: Runner, oracle: Oracle) -> None:
    """A copy is a copy, not an alias, and other slots stay as they were."""
    run(on_device, Part(0, A[:6]), Part(3, B))
    on_device.copy_blocks([(0, 2)])
    run(on_device, Part(0, [1], start=6))

    logits = run(on_device, Part(2, A[6:], start=6), Part(3, [8], start=5))

    np.testing.assert_allclose(logits, [oracle.logits(A)[-1], oracle.logits([*B, 8])[-1]], atol=1e-4)
    with pytest.raises(Fatal, match="cannot copy slot"):
        on_device.copy_blocks([(0, 4)])


def test_nothing_unwritten_is_ever_read(model: LoadableModel, oracle: Oracle) -> None:
    """NaN wherever a sequence has not written leaves no trace."""
    runner = make_runner(model, device="device")
    for array in binding_of(runner).pool.arrays:
        array.update_inplace(np.full(array.shape(), np.nan, np.float32))

    logits = run(runner, Part(3, A), Part(1, B))

    np.testing.assert_allclose(logits, [oracle.logits(A)[-1], oracle.logits(B)[-1]], atol=1e-4)


def test_kv_is_written_in_place_where_the_device_can(model: LoadableModel) -> None:
    """No copy of the pool a step; elsewhere each step makes a new array."""
    for device, is_same in (("device", True), ("copying device", False)):
        runner = make_runner(model, device=device)
        before = binding_of(runner).pool.arrays[0].data_ptr()

        run(runner, Part(1, A))

        assert (binding_of(runner).pool.arrays[0].data_ptr() == before) is is_same


def test_a_copying_device_plans_for_both_copies(model: LoadableModel) -> None:
    """The plan counts keys and values twice, since both copies exist while a step runs."""
    limit = KVLimit(max_bytes=10_000_000, max_sequences=8, max_context=512)

    plans = [make_runner(model, device=device).plan_memory(limit) for device in ("device", "copying device")]

    assert [plan.num_blocks for plan in plans] == [4, 2]
    assert plans[1].bytes_per_block == 2 * plans[0].bytes_per_block


def test_suspend_and_resume(model: LoadableModel, oracle: Oracle) -> None:
    """A pause gives the memory back, and the runner works as before."""
    runner = make_runner(model, device="device")
    runner.suspend()
    with pytest.raises(Fatal, match="resume"):
        runner.submit(step_of(Part(0, A)))

    runner.resume()

    np.testing.assert_allclose(run(runner, Part(0, A))[0], oracle.logits(A)[-1], atol=1e-4)


def test_no_wanted_rows_give_none(on_device: Runner) -> None:
    """A chunk that is not the last asks for nothing and gets nothing."""
    assert run(on_device, Part(0, A, rows=0)).shape == (0, 512)


def test_indices_stay_within_each_sequence() -> None:
    """Two sequences of unequal length in far slots of eight tokens."""
    inputs = kv_inputs(step_of(Part(2, [1, 2]), Part(0, [5], start=3)), 8)

    np.testing.assert_array_equal(inputs["read_idx"], [[16, 17, 17, 17], [0, 1, 2, 3]])
    np.testing.assert_array_equal(inputs["write_idx"], [[16], [17], [3]])
    np.testing.assert_array_equal(inputs["query_pos"][:, 0, :, 0], [[0, 1], [3, 0]])
