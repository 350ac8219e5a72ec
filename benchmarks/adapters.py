"""A decode step of eight sequences with no adapter, with one for all, and with as many as there are sequences.

python -m benchmarks.adapters
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from backends.api import KVLimit, Runner, Step
from backends.loading import open_model
from backends.models.shapes import lora_shapes
from backends.quantize import quantize_file
from backends.registry import create_runner
from backends.testing.greedy import step_of
from backends.testing.kit.samples import random_adapter
from backends.testing.models import HALF_B_MODEL, make_random_model
from benchmarks.record import Bar, Numbers, at_least, tables, write_result

SEQUENCES, CONTEXT, RANK = 8, 128, 16
CASES = {"none": 0, "one for all": 1, "four": 4, "eight": 8}
BARS = (("one for all", "none", 0.90), ("four", "one for all", 0.95), ("eight", "none", 0.85))
"""The speed of a case over that of another, and the least that it may be."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--formats", nargs="+", default=["Q4_0", "Q8_0"])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    numbers: dict[str, object] = {"rank": RANK, "sequences": SEQUENCES}
    with tempfile.TemporaryDirectory() as directory:
        source = make_random_model(Path(directory) / "model", sizes=HALF_B_MODEL, dtype="F16")
        for form in arguments.formats:
            path = Path(directory) / f"{form}.gguf"
            quantize_file(source, path, format=form, pure=True)
            numbers[form] = _measure(path, rounds=arguments.rounds)
            path.unlink()
    command = f"python -m benchmarks.adapters --formats {' '.join(arguments.formats)}"
    write_result("adapters", numbers, bars=bars(numbers), command=command)


def bars(numbers: Numbers) -> list[Bar]:
    """Speed of each format with one adapter for all, with four and with eight."""
    return [
        at_least(f"{form}: adapters, {case} over {other}", found["ms"][other] / found["ms"][case], bar, unit="×")
        for form, found in tables(numbers).items()
        for case, other, bar in BARS
    ]


def _measure(path: Path, *, rounds: int) -> dict[str, object]:
    runner, targets = _ready(path)
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, step in _steps().items():
            times.setdefault(name, []).append(_time(runner, step))
    runner.close()
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        "targets": targets,
        "ms": {name: round(1000 * seconds, 2) for name, seconds in medians.items()},
        "over_none": {name: round(seconds / medians["none"], 3) for name, seconds in medians.items()},
    }


def _ready(path: Path) -> tuple[Runner, int]:
    """Runner with an adapter on every linear of every layer in each slot, and the number of linears."""
    runner, model = create_runner("onnx", threads=2), open_model(path)
    runner.load(model, lambda _: None)
    runner.plan_memory(KVLimit(max_bytes=1 << 32, max_sequences=SEQUENCES, max_context=2 * CONTEXT))
    shapes = lora_shapes(model.spec, runner.capabilities().lora_targets)
    for slot in range(SEQUENCES):
        runner.put_adapter(slot, random_adapter(shapes, rank=RANK, seed=slot))
    runner.warmup()
    runner.collect(runner.submit(step_of([[7] * CONTEXT] * SEQUENCES, [CONTEXT] * SEQUENCES)))
    return runner, len(shapes)


def _steps() -> dict[str, Step]:
    """Steps that may be repeated: each begins at the same context."""
    plain = step_of([[5]] * SEQUENCES, [CONTEXT + 1] * SEQUENCES)
    slots = {
        name: [-1] * SEQUENCES if count == 0 else [n % count for n in range(SEQUENCES)] for name, count in CASES.items()
    }
    return {name: msgspec.structs.replace(plain, lora=np.array(lora, np.int32)) for name, lora in slots.items()}


def _time(runner: Runner, step: Step) -> float:
    start = time.perf_counter()
    runner.collect(runner.submit(step))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
