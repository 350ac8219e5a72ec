"""Drives a runner by hand: which sequence brings which tokens in a step."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from backends.api import F32, KVLimit, LoadableModel, Runner, Step
from backends.onnx.kv.blocks import BlockBinding
from backends.onnx.kv.slots import Binding
from backends.onnx.provider import Provider
from backends.onnx.providers import PROVIDERS, ProviderChoice
from backends.onnx.runner import OnnxRunner
from backends.testing.oracle import Oracle

CPU = PROVIDERS[-1]
DEVICE_ON_CPU = Provider(device="cpu", name=CPU.name, extra="onnx")
COPYING_DEVICE_ON_CPU = Provider(device="cpu", name=CPU.name, extra="onnx", in_place=False)
PROVIDER_OF = {"cpu": CPU, "device": DEVICE_ON_CPU, "copying device": COPYING_DEVICE_ON_CPU}
"""The graph and binding of devices run on the CPU as well: all that cannot be had here is the hardware."""


class Part(msgspec.Struct, frozen=True):
    """New tokens of the sequence in `slot`, of which `start` are computed; logits of the last `rows` tokens.

    `lora` is an adapter slot, or -1.
    """

    slot: int
    tokens: list[int]
    start: int = 0
    rows: int = 1
    lora: int = -1


class Script:
    """Logits of many steps, to be compared at the end: the oracle then computes each sequence once."""

    def __init__(self) -> None:
        self._found: list[tuple[list[int], int, F32]] = []

    def note(self, logits: F32, parts: list[Part], sequences: dict[int, list[int]]) -> None:
        """Rows of a step, and the tokens by slot; a sequence's list may grow later."""
        assert len(logits) == sum(part.rows for part in parts)
        ends = np.cumsum([part.rows for part in parts])
        for part, rows in zip(parts, np.split(logits, ends[:-1]), strict=True):
            self._found.append((sequences[part.slot], len(sequences[part.slot]), rows))

    def confirm(self, oracle: Oracle, *, atol: float) -> None:
        """Every row is the oracle's, which depends only on the tokens before it."""
        expected = {id(tokens): oracle.logits(tokens) for tokens in {id(t): t for t, *_ in self._found}.values()}
        for tokens, end, rows in self._found:
            np.testing.assert_allclose(rows, expected[id(tokens)][end - len(rows) : end], atol=atol)


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
    binding = runner.kv
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
