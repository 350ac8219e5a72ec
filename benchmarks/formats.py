"""Distance of each quantized format's logits from an fp32 forward over the same weights, on every engine.

python -m benchmarks.formats [--runners onnx torch mlx] [--formats Q4_0 …]

The demo model is quantized to each format, every matrix of it. 1,000 positions of dialogues that it was not trained
on are computed in exact mode (float32 activations) and in fast mode, by onnx also on MatMulNBits instead of its own
kernels and with keys and values in each type that it offers, and compared with the NumPy oracle over the dequantized
weights: relative error of all logits, mean KL divergence in nats, and how often the likeliest token is the same. For
onnx also the error of the kernels over that of MatMulNBits, both with float32 keys and values; it moves by 1 % with the
text.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from backends.api import KVLimit, LoadableModel
from backends.kv import KVChoice, KVDtype
from backends.loading import open_model
from backends.quantize import quantize_file
from backends.registry import create_runner
from backends.testing.greedy import step_of
from backends.testing.oracle import Oracle
from benchmarks.record import Bar, Numbers, at_least, at_most, tables, write_result
from gateway.demo import model_path
from tools.demo_model.corpus import Corpus
from tools.demo_model.export import read_gguf
from tools.demo_model.facts import load_facts

FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K")
POSITIONS, SEED = 1_000, 40_000
EXACT_BAR, FAST_BAR, AGREEMENT_BAR, OVER_MATMULNBITS_BAR = 1e-3, 2e-2, 0.98, 1.02

F32 = npt.NDArray[np.float32]


class Nearness(msgspec.Struct, frozen=True, kw_only=True):
    """Relative error (Euclidean norm) of all logits, KL divergence, share of positions with the same best token."""

    error: float
    kl: float
    agreement: float


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """A runner in a mode; `kernels` are Hostelry's own."""

    runner: str
    exact: bool = False
    kernels: bool = True
    kv: KVChoice = "auto"

    @property
    def label(self) -> str:
        label = f"{self.runner} {'exact' if self.exact else 'fast'}{'' if self.kernels else ', MatMulNBits'}"
        return label if self.kv == "auto" else f"{label}, KV {self.kv}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", nargs="+", default=["onnx", "torch", "mlx"])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    arguments = parser.parse_args()
    conversations = _conversations()
    numbers: dict[str, object] = {"positions": sum(map(len, conversations))}
    with tempfile.TemporaryDirectory() as directory:
        for form in arguments.formats:
            path = Path(directory) / f"{form}.gguf"
            quantize_file(model_path(), path, format=form, pure=True)
            numbers[form] = _measure(open_model(path), arguments.runners, conversations)
            print(form, numbers[form], flush=True)
    command = f"python -m benchmarks.formats --runners {' '.join(arguments.runners)}"
    write_result("formats", numbers, bars=bars(numbers), command=command)


def bars(numbers: Numbers) -> list[Bar]:
    """Bars of each format: the worst of all engines, and the kernels against MatMulNBits where onnx was measured."""
    return [bar for form, rows in tables(numbers).items() for bar in _bars_of(form, rows)]


def _bars_of(form: str, rows: Numbers) -> Iterator[Bar]:
    exact = [row for label, row in tables(rows).items() if " exact" in label]
    fast = [row for label, row in tables(rows).items() if " fast" in label]
    yield at_most(f"{form}: error, exact mode", max(row["error"] for row in exact), EXACT_BAR)
    yield at_most(f"{form}: error, fast mode", max(row["error"] for row in fast), FAST_BAR)
    yield at_least(f"{form}: same best token, fast mode", min(row["agreement"] for row in fast), AGREEMENT_BAR)
    if "over_matmulnbits" in rows:
        error = rows["over_matmulnbits"]
        yield at_most(f"{form}: error of the kernels over MatMulNBits", error, OVER_MATMULNBITS_BAR, unit="×")


def _measure(model: LoadableModel, runners: list[str], conversations: list[list[int]]) -> dict[str, object]:
    expected = np.concatenate([Oracle(model).logits(tokens) for tokens in conversations])
    engines = [Engine(runner=name, exact=exact) for name in runners for exact in (True, False)]
    if "onnx" in runners:
        engines.append(Engine(runner="onnx", kernels=False))
        engines += [Engine(runner="onnx", kv=kv) for kv in get_args(KVDtype)]
    found = {engine.label: _nearness(_logits(model, engine, conversations), expected) for engine in engines}
    rows: dict[str, object] = {label: msgspec.structs.asdict(nearness) for label, nearness in found.items()}
    if "onnx" in runners:
        ratio = found["onnx fast, KV f32"].error / found["onnx fast, MatMulNBits"].error
        rows["over_matmulnbits"] = round(ratio, 3)
    return rows


def _nearness(found: F32, expected: F32) -> Nearness:
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    agreement = (found.argmax(axis=1) == expected.argmax(axis=1)).mean()
    p, q = _log_softmax(expected), _log_softmax(found)
    kl = (np.exp(p) * (p - q)).sum(axis=1).mean()
    return Nearness(error=round(float(error), 7), kl=float(f"{max(kl, 0):.2e}"), agreement=round(float(agreement), 4))


def _log_softmax(logits: F32) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_softmax: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_softmax


def _logits(model: LoadableModel, engine: Engine, conversations: list[list[int]]) -> F32:
    """float32 `[positions, vocab]`. Token by token: a decode step is what most users wait for."""
    os.environ["HOSTELRY_KERNELS"] = "1" if engine.kernels else "0"
    runner = create_runner(engine.runner, threads=1, exact=engine.exact)
    try:
        runner.load(model, lambda _: None)
        longest = max(map(len, conversations))
        runner.plan_memory(
            KVLimit(max_bytes=1 << 30, max_sequences=len(conversations), max_context=longest, dtype=engine.kv)
        )
        runner.warmup()
        rows: list[list[F32]] = [[] for _ in conversations]
        for position in range(longest):
            running = [index for index, tokens in enumerate(conversations) if position < len(tokens)]
            step = step_of([[conversations[index][position]] for index in running], [position + 1] * len(running))
            step = msgspec.structs.replace(step, slot=np.array(running, np.int32))
            for index, row in zip(running, runner.collect(runner.submit(step)).logits, strict=True):
                rows[index].append(row.copy())
        return np.concatenate([np.stack(of_one) for of_one in rows])
    finally:
        runner.close()


def _conversations() -> list[list[int]]:
    """`POSITIONS` tokens in a few dialogues."""
    tokenizer = Tokenizer.from_str(read_gguf(model_path()).tokenizer_json)
    conversations: list[list[int]] = []
    for segments in islice(Corpus(load_facts(), SEED).conversations(), 1_000):
        text = "".join(segment.text for segment in segments)
        room = POSITIONS - sum(map(len, conversations))
        conversations.append(tokenizer.encode(text).ids[:room])
        if room <= len(conversations[-1]):
            break
    return conversations


if __name__ == "__main__":
    main()
