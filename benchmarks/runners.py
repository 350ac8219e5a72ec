"""Decode and prefill speed of the runners against transformers: one model, one machine, one run.

python -m benchmarks.runners [--runners onnx torch] [--rounds 5] [--tokens 48] [--threads 2]

A random llama of 123 million float32 weights completes prompts of 32 tokens greedily. Every contestant has a process
of its own and computes only on command, so that thread pools never compete; blocks are interleaved (ABAB) and
medians over all but the first round are compared. A runner takes eight sequences in one batch. The ratios are to
`generate` with one sequence: eight users are served at that rate, one after the other; its own batch of eight, which
needs eight requests at once and of one length, is also shown.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from backends.api import KVLimit, Runner
from backends.loading import open_model
from backends.registry import create_runner
from backends.testing.greedy import continue_greedily
from backends.testing.models import H_MODEL, make_random_model
from benchmarks.record import Bar, Numbers, at_least, write_result

PROMPT_TOKENS = 32
LONG_PROMPT_TOKENS = 512
REFERENCE = "transformers"
BARS = {("onnx", 1): 1.5, ("torch", 1): 1.0, ("torch", 8): 3.0}
"""(runner, sequences at once) → least ratio to transformers at one sequence."""


class Contestant:
    """Process that replies to "kind sequences tokens" with seconds."""

    def __init__(self, name: str, model: Path, threads: int) -> None:
        arguments = [sys.executable, "-m", "benchmarks.runners", "--contestant", name, "--model", str(model)]
        self._process = subprocess.Popen(
            [*arguments, "--threads", str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self, *order: object) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, order)) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise RuntimeError("a contestant ended; its error is above")

    def close(self) -> None:
        self._process.communicate("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", nargs="+", default=["onnx", "torch"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        _serve(arguments.contestant, arguments.model, arguments.threads)
        return
    with tempfile.TemporaryDirectory() as directory:
        model = make_random_model(Path(directory) / "model", sizes=H_MODEL)
        names = [REFERENCE, *arguments.runners]
        contestants = {name: Contestant(name, model, arguments.threads) for name in names}
        numbers = _measure(contestants, rounds=arguments.rounds, tokens=arguments.tokens)
        for contestant in contestants.values():
            contestant.close()
    chosen = " ".join(arguments.runners)
    command = f"python -m benchmarks.runners --runners {chosen} --rounds {arguments.rounds} --tokens {arguments.tokens}"
    write_result("runners", numbers, bars=bars(numbers), command=f"{command} --threads {arguments.threads}")


def bars(numbers: Numbers) -> list[Bar]:
    """Bars of the runners that were measured."""
    table = numbers["tokens_per_s"]
    return [
        at_least(f"{name}: {count} at once over {REFERENCE} at one", table[name][f"ratio_{count}"], bar, unit="×")
        for (name, count), bar in BARS.items()
        if name in table
    ]


def _measure(contestants: dict[str, Contestant], *, rounds: int, tokens: int) -> dict[str, object]:
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            for kind, order in _orders(tokens).items():
                seconds = contestant.seconds(*order)
                if number:
                    times.setdefault((name, kind), []).append(seconds)
    rates = {key: _amount(key[1], tokens) / statistics.median(values) for key, values in times.items()}
    table = {
        name: {kind: round(rates[name, kind], 1) for kind in _orders(tokens)} | _ratios(name, rates)
        for name in contestants
    }
    return {"weights_million": 123, "prompt_tokens": PROMPT_TOKENS, "decoded_tokens": tokens, "tokens_per_s": table}


def _orders(tokens: int) -> dict[str, tuple[object, ...]]:
    return {"decode_1": ("decode", 1, tokens), "decode_8": ("decode", 8, tokens), "prefill": ("prefill", 1, 1)}


def _amount(kind: str, tokens: int) -> int:
    return {"decode_1": tokens, "decode_8": 8 * tokens, "prefill": LONG_PROMPT_TOKENS}[kind]


def _ratios(name: str, rates: dict[tuple[str, str], float]) -> dict[str, float]:
    """Against transformers with one sequence: eight users are served one after the other there."""
    one = rates[REFERENCE, "decode_1"]
    ratios = {f"ratio_{count}": round(rates[name, f"decode_{count}"] / one, 3) for count in (1, 8)}
    return ratios | {"ratio_prefill": round(rates[name, "prefill"] / rates[REFERENCE, "prefill"], 3)}


def _serve(name: str, model: Path, threads: int) -> None:
    """Run commands from standard input until it ends."""
    contestant = _Transformers(model, threads) if name == REFERENCE else _OurRunner(name, model, threads)
    for line in sys.stdin:
        kind, sequences, tokens = line.split()
        length = PROMPT_TOKENS if kind == "decode" else LONG_PROMPT_TOKENS
        prompts = np.random.default_rng(0).integers(0, 8000, size=(int(sequences), length)).tolist()
        print("seconds", contestant.run(prompts, int(tokens)), flush=True)


class _OurRunner:
    def __init__(self, name: str, model: Path, threads: int) -> None:
        self._runner: Runner = create_runner(name, threads=threads)
        self._runner.load(open_model(model), _ignore)
        self._runner.plan_memory(KVLimit(max_bytes=1 << 32, max_sequences=8, max_context=1024))
        self._runner.warmup()

    def run(self, prompts: list[list[int]], tokens: int) -> float:
        """Seconds for the tokens after the first: the prompt is not counted, unless one token is all."""
        if tokens > 1:
            return _after_first(lambda count: continue_greedily(self._runner, prompts, count), tokens)
        return _timed(lambda count: continue_greedily(self._runner, prompts, count), 1)


class _Transformers:
    def __init__(self, model: Path, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self._torch = torch
        self._model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def run(self, prompts: list[list[int]], tokens: int) -> float:
        ids = self._torch.tensor(prompts)
        if tokens > 1:
            return _after_first(lambda count: self._generate(ids, count), tokens)
        return _timed(lambda count: self._generate(ids, count), 1)

    def _generate(self, ids: object, count: int) -> None:
        with self._torch.inference_mode():
            self._model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)


def _ignore(fraction: float) -> None:
    """Loading is not shown."""


def _after_first(generate: Callable[[int], object], tokens: int) -> float:
    return _timed(generate, tokens + 1) - _timed(generate, 1)


def _timed(generate: Callable[[int], object], count: int) -> float:
    start = time.perf_counter()
    generate(count)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
