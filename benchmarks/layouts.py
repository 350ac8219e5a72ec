"""A decode step of the onnx runner over scattered blocks, compared with one over contiguous slots.

python -m benchmarks.layouts [--rounds 30]

A random llama of 495 million weights in Q4_0. Steps alternate, medians count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from backends.api import KVLimit, KVPlan, Runner, Step
from backends.kv import BLOCK_TOKENS, KVLayout
from backends.loading import open_model
from backends.quantize import quantize_file
from backends.registry import create_runner
from backends.steps import flat_indices
from backends.testing.greedy import step_of
from backends.testing.models import HALF_B_MODEL, make_random_model
from benchmarks.record import NoBars, Numbers, write_result

CASES = ((1, 128), (8, 128), (16, 128), (16, 1024))
"""Sequences, and tokens of each."""
SEQUENCES, CONTEXT = 16, 1040
LAYOUTS: tuple[KVLayout, ...] = ("paged", "slot")


class Side(msgspec.Struct, frozen=True):
    runner: Runner
    plan: KVPlan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "Q4_0.gguf"
        quantize_file(
            make_random_model(Path(directory) / "model", sizes=HALF_B_MODEL, dtype="F16"),
            path,
            format="Q4_0",
            pure=True,
        )
        sides = {layout: _side(path, layout) for layout in LAYOUTS}
        numbers: dict[str, object] = {
            f"{count} sequences of {tokens} tokens": _measure(sides, count, tokens, rounds) for count, tokens in CASES
        }
    command = f"python -m benchmarks.layouts --rounds {rounds}"
    write_result("layouts", numbers, bars=bars(numbers), command=command)


def bars(numbers: Numbers) -> NoBars:
    """None for any numbers."""
    del numbers
    return NoBars("it decided between two layouts (docs/why.md) and promises nothing")


def _side(path: Path, layout: KVLayout) -> Side:
    runner = create_runner("onnx", threads=0, exact=False, device="cpu")
    runner.load(open_model(path), lambda _: None)
    limit = KVLimit(max_bytes=1 << 32, max_sequences=SEQUENCES, max_context=CONTEXT, layout=layout)
    plan = runner.plan_memory(limit)
    runner.warmup()
    return Side(runner, plan)


def _measure(sides: dict[KVLayout, Side], count: int, tokens: int, rounds: int) -> dict[str, float]:
    taken: dict[KVLayout, list[float]] = {layout: [] for layout in sides}
    for _ in range(rounds + 1):
        for layout, side in sides.items():
            step = _step(count, tokens, side.plan)
            start = time.perf_counter()
            side.runner.collect(side.runner.submit(step))
            taken[layout].append(time.perf_counter() - start)
    medians = {layout: 1000 * statistics.median(found[1:]) for layout, found in taken.items()}
    return {f"{layout}_ms": round(ms, 2) for layout, ms in medians.items()} | {
        "paged_over_slot": round(medians["paged"] / medians["slot"], 3)
    }


def _step(count: int, tokens: int, plan: KVPlan) -> Step:
    step = step_of([[1]] * count, [tokens + 1] * count)
    if plan.layout == "slot":
        return step
    width = tokens // BLOCK_TOKENS + 1
    anywhere = np.random.default_rng(count).permutation(plan.num_blocks)[: count * width]
    table = anywhere.reshape(count, width).astype(np.int32)
    return msgspec.structs.replace(step, block_table=table, slot_map=flat_indices(step, table, BLOCK_TOKENS))


if __name__ == "__main__":
    main()
