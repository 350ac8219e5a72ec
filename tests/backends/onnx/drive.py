"""Drives a runner by hand: which sequence brings which tokens in a step."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from backends.api import F32, KVLimit, LoadableModel, Runner, Step
from backends.onnx.binding import Binding
from backends.onnx.blocks import BlockBinding
from backends.onnx.providers import PROVIDERS, Provider, ProviderChoice
from backends.onnx.runner import OnnxRunner

CPU = PROVIDERS[-1]
DEVICE_ON_CPU = Provider(device="cpu", name=CPU.name, extra="onnx")
COPYING_DEVICE_ON_CPU = Provider(device="cpu", name=CPU.name, extra="onnx", in_place=False)
PROVIDER_OF = {"cpu": CPU, "device": DEVICE_ON_CPU, "copying device": COPYING_DEVICE_ON_CPU}
"""The graph and binding of devices run on the CPU as well: all that cannot be had here is the hardware."""
DEVICES = ("cpu", "device")


class Part(msgspec.Struct, frozen=True):
    """New tokens of the sequence in `slot`, of which `start` are computed; logits of the last `rows` tokens.

    `lora` is an adapter slot, or -1.
    """

    slot: int
    tokens: list[int]
    start: int = 0
    rows: int = 1
    lora: int = -1


def make_runner(
    model: LoadableModel, *, exact: bool = False, slots: int = 4, context: int = 256, device: str = "cpu"
) -> Runner:
    choice = ProviderChoice(candidates=(PROVIDER_OF[device],), reason="a test")
    runner = OnnxRunner(choice, threads=2, exact=exact)
    runner.load(model, lambda _: None)
    runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=slots, max_context=context))
    runner.warmup()
    return runner


def slots_of(runner: Runner) -> list[npt.NDArray[np.uint8]]:
    """The bytes of keys and values, uint8 `[slots, bytes]` each, whichever attention owns them; 0xFF makes NaN."""
    assert isinstance(runner, OnnxRunner)
    binding = runner._binding
    if isinstance(binding, BlockBinding):
        pool = binding.pool
        return list(pool.data.reshape(2 * len(pool.data), pool.num_slots, -1))
    assert isinstance(binding, Binding)
    return [array.view(np.uint8).reshape(len(array), -1) for array in (*binding.pool.keys, *binding.pool.values)]


def run(runner: Runner, *parts: Part) -> F32:
    """Logits of the asked rows, in the order of the parts."""
    return runner.collect(runner.submit(step_of(*parts))).logits.copy()


def step_of(*parts: Part) -> Step:
    ends = np.cumsum([len(part.tokens) for part in parts])
    rows = [end - part.rows + i for end, part in zip(ends, parts, strict=True) for i in range(part.rows)]
    positions = [part.start + i for part in parts for i in range(len(part.tokens))]
    return Step(
        token_ids=np.array([token for part in parts for token in part.tokens], np.int64),
        positions=np.array(positions, np.int32),
        q_start=np.array([0, *ends], np.int32),
        kv_len=np.array([part.start + len(part.tokens) for part in parts], np.int32),
        slot=np.array([part.slot for part in parts], np.int32),
        logit_rows=np.array(rows, np.int32),
        lora=np.array([part.lora for part in parts], np.int32),
    )
