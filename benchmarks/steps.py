"""Cost of one step of the onnx runner on its own kernels and on MatMulNBits: decode, verify, prefill, mixed.

python -m benchmarks.steps [--formats Q4_0 …] [--rounds 7] [--server PATH/llama-server]

A random llama of 495 million weights; 128 tokens of context. Loading is timed too. Rounds alternate, medians count.
With llama.cpp's server (see `benchmarks.llama_cpp`), its decode step of eight streams and its speed of a prompt of 64
tokens are measured over HTTP in the same run: our mixed step is compared with the sum of the two.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from backends.api import KVLimit, Runner, Step
from backends.loading import open_model
from backends.quantize import quantize_file
from backends.registry import create_runner
from backends.testing.greedy import step_of
from backends.testing.models import HALF_B_MODEL, make_random_model
from benchmarks.llama_cpp import llama_server
from benchmarks.record import Bar, Numbers, at_most, rate, tables, write_result
from gateway.bench.sweep import SweepShape, sweep

CONTEXT, SEQUENCES, CHUNK, DRAFT = 128, 9, 64, 5
VERIFY_BAR, MIXED_BAR, LOAD_BAR_S = 1.4, 0.6, 1.5
"""The most that a verify step of `DRAFT` rows may cost in plain steps, our mixed step in llama.cpp's, and loading."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=["Q4_0", "Q4_K", "Q8_0"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--server", type=Path)
    arguments = parser.parse_args()
    numbers: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as directory:
        source = make_random_model(Path(directory) / "model", sizes=HALF_B_MODEL, dtype="F16")
        for form in arguments.formats:
            path = Path(directory) / f"{form}.gguf"
            quantize_file(source, path, format=form, pure=True)
            theirs = _theirs(arguments.server, path) if arguments.server else None
            numbers[form] = _measure(path, rounds=arguments.rounds, theirs_apart=theirs)
            path.unlink()
    given = f"--formats {' '.join(arguments.formats)}" + (" --server llama-server" if arguments.server else "")
    write_result("steps", numbers, bars=bars(numbers), command=f"python -m benchmarks.steps {given}")


def bars(numbers: Numbers) -> list[Bar]:
    """Bars of the kernels, for each format; the mixed step where llama.cpp was measured."""
    return [bar for form, found in tables(numbers).items() for bar in _bars_of(form, found)]


def _bars_of(form: str, found: Numbers) -> Iterator[Bar]:
    kernels = found["kernels"]
    yield at_most(
        f"{form}: verifying {DRAFT} rows, in plain steps", kernels["verify_over_decode"], VERIFY_BAR, unit="×"
    )
    yield at_most(f"{form}: loading", kernels["load_s"], LOAD_BAR_S, unit="s")
    if "mixed_over_theirs_apart" in found:
        mixed = found["mixed_over_theirs_apart"]
        yield at_most(f"{form}: mixed step over llama.cpp's two", mixed, MIXED_BAR, unit="×")


def _theirs(server: Path, path: Path) -> float:
    """Seconds of llama.cpp's decode step of eight sequences and of its prompt of a chunk's length."""
    decode = SweepShape(streams=(8,), prompt_tokens=CONTEXT, tokens=48, rounds=3)
    prompt = SweepShape(streams=(1,), prompt_tokens=CHUNK, tokens=2, rounds=3)
    with llama_server(server, path, context=4 * CONTEXT) as target:
        (eight,) = asyncio.run(sweep([target], decode, lambda _: None))
        (one,) = asyncio.run(sweep([target], prompt, lambda _: None))
    decode_s = 8 / rate(eight.decode_tokens_per_s, "llama.cpp's decoding of eight streams")
    return decode_s + CHUNK / rate(one.prompt_tokens_per_s, "llama.cpp's prompt")


def _measure(path: Path, *, rounds: int, theirs_apart: float | None) -> dict[str, object]:
    loaded = {"kernels": _load(path, kernels="1"), "MatMulNBits": _load(path, kernels="0")}
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for label, (runner, _) in loaded.items():
            for name, step in _steps().items():
                times.setdefault((label, name), []).append(_time(runner, step))
    numbers: dict[str, object] = {
        label: _numbers(label, times) | {"load_s": round(seconds, 3)} for label, (_, seconds) in loaded.items()
    }
    if theirs_apart is not None:
        mixed = statistics.median(times["kernels", "mixed"])
        numbers["llama.cpp"] = {"decode 8 and prefill 64 apart, ms": round(1000 * theirs_apart, 1)}
        numbers["mixed_over_theirs_apart"] = round(mixed / theirs_apart, 3)
    for runner, _ in loaded.values():
        runner.close()
    return numbers


def _numbers(label: str, times: dict[tuple[str, str], list[float]]) -> dict[str, object]:
    medians = {name: statistics.median(found) for (who, name), found in times.items() if who == label}
    return {
        "ms": {name: round(1000 * seconds, 1) for name, seconds in medians.items()},
        "verify_over_decode": round(medians["verify 5 rows"] / medians["decode 1"], 3),
        "mixed_over_apart": round(medians["mixed"] / (medians["decode 8"] + medians["prefill 64"]), 3),
    }


def _load(path: Path, *, kernels: str) -> tuple[Runner, float]:
    os.environ["HOSTELRY_KERNELS"] = kernels
    runner, model = create_runner("onnx", threads=2), open_model(path)
    start = time.perf_counter()
    runner.load(model, lambda _: None)
    seconds = time.perf_counter() - start
    runner.plan_memory(KVLimit(max_bytes=1 << 32, max_sequences=SEQUENCES, max_context=2 * CONTEXT))
    runner.warmup()
    runner.collect(runner.submit(step_of([[7] * CONTEXT] * SEQUENCES, [CONTEXT] * SEQUENCES)))
    return runner, seconds


def _steps() -> dict[str, Step]:
    """Every step begins at the same context, so that it may be repeated."""
    decodes, draft = [[5]] * 8, step_of([[5] * DRAFT], [CONTEXT + DRAFT])
    chunk = step_of([[5] * CHUNK], [CONTEXT + CHUNK])
    return {
        "decode 1": step_of([[5]], [CONTEXT + 1]),
        "verify 5 rows": msgspec.structs.replace(draft, logit_rows=np.arange(DRAFT, dtype=np.int32)),
        "decode 8": step_of(decodes, [CONTEXT + 1] * 8),
        "prefill 64": chunk,
        "mixed": step_of([*decodes, [5] * CHUNK], [CONTEXT + 1] * 8 + [CONTEXT + CHUNK]),
    }


def _time(runner: Runner, step: Step) -> float:
    start = time.perf_counter()
    runner.collect(runner.submit(step))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
