"""Our server against llama.cpp's on the same GGUF files, over HTTP, interleaved in one run.

    python -m benchmarks.llama_cpp --server PATH/llama-server [--formats Q4_0 Q8_0 Q4_K …] [--streams 1 4 8 16]

A random llama of 495 million weights is quantized by `hostelry quantize --pure` to each format. Ours serves
each twice: on its own kernels, and on onnxruntime's MatMulNBits. All three get two threads, room for 16 sequences and
the same client; rounds alternate between them, medians are compared. `llama-server`
comes from llama.cpp's source, for example the one inside the source distribution of `llama-cpp-python`, built with
`cmake -DGGML_NATIVE=ON` (on a virtual machine whose AMX tiles crash it, with `-mno-amx-tile -mno-amx-int8`).
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import msgspec

from backends.quantize import quantize_file
from backends.testing.models import HALF_B_MODEL, make_random_model
from benchmarks.record import Bar, Numbers, at_least, at_most, rate, tables, write_result
from gateway.bench.load import Target
from gateway.bench.own_server import own_server
from gateway.bench.sweep import SweepRow, SweepShape, sweep
from gateway.process.listener import bind

STREAMS = (1, 4, 8, 16)
PROMPT_TOKENS, TOKENS = 128, 48
LONG_PROMPT = 512
THEIRS, OURS, STOCK = "llama.cpp", "kernels", "MatMulNBits"
_ENVIRONMENT = {OURS: {}, STOCK: {"HOSTELRY_KERNELS": "0"}}


class Bars(msgspec.Struct, frozen=True):
    """Least ratios to llama.cpp: decoding by streams, and prompts; and most weights in memory over the file's size."""

    decode: dict[int, float]
    prompt: float | None
    weights: float | None = None


KERNEL_BARS = {
    "Q4_0": Bars({1: 1.15, 4: 1.4, 8: 1.6, 16: 1.4}, 1.8, 1.1),
    "Q4_K": Bars({1: 1.05, 4: 1.6, 8: 1.6, 16: 1.6}, 1.9, 1.1),
    "Q8_0": Bars({1: 1.3, 4: 2.5, 8: 2.5, 16: 2.5}, 3.0, 1.1),
}
OTHER_KERNEL_BARS = Bars({1: 1.0, 4: 1.2, 8: 1.2, 16: 1.2}, 1.3)
STOCK_BARS = {
    "Q4_0": Bars(dict.fromkeys(STREAMS, 0.8), 0.8, 1.35),
    "Q4_K": Bars({1: 0.6, 4: 0.8, 8: 0.8, 16: 0.8}, None, 1.35),
    "Q8_0": Bars({1: 1.2, 4: 1.5, 8: 1.5, 16: 1.5}, 1.5, 1.15),
}
OTHER_STOCK_BARS = Bars(dict.fromkeys(STREAMS, 0.5), 0.5)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of each format."""

    server: Path
    streams: tuple[int, ...]
    rounds: int
    prompt: int
    tokens: int
    labels: tuple[str, ...]
    """Labels of our own servers."""

    @property
    def context(self) -> int:
        """Tokens of one sequence; prompts have the requested length only within a tenth or so."""
        return max(self.prompt, LONG_PROMPT) * 5 // 4 + self.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("--formats", nargs="+", default=["Q4_0", "Q8_0", "Q4_K"])
    parser.add_argument("--streams", nargs="+", type=int, choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=PROMPT_TOKENS, help="tokens of it, before decoding begins")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each answer; speed counts while all decode")
    parser.add_argument("--own", nargs="+", choices=(OURS, STOCK), default=[OURS, STOCK])
    parser.add_argument("--name", default="llama_cpp", help="of the file with the results")
    given = parser.parse_args()
    run = Run(
        server=given.server,
        streams=tuple(given.streams),
        rounds=given.rounds,
        prompt=given.prompt,
        tokens=given.tokens,
        labels=tuple(given.own),
    )
    wanted = f"--formats {' '.join(given.formats)} --streams {' '.join(map(str, given.streams))}"
    wanted += f" --rounds {given.rounds} --prompt {given.prompt} --tokens {given.tokens}"
    wanted += f" --own {' '.join(given.own)} --name {given.name}"
    numbers: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as directory:
        source = make_random_model(Path(directory) / "model", sizes=HALF_B_MODEL, dtype="F16")
        for form in given.formats:
            path = Path(directory) / f"{form}.gguf"
            quantize_file(source, path, format=form, pure=True)
            numbers[form] = _measure(run, path, form)
            command = f"python -m benchmarks.llama_cpp --server llama-server {wanted}"
            write_result(given.name, numbers, bars=bars(numbers), command=command)
            path.unlink()


def bars(numbers: Numbers) -> list[Bar]:
    """Bars of each format and each of our own servers."""
    return [
        bar
        for form, found in tables(numbers).items()
        for label in (OURS, STOCK)
        if label in found
        for bar in _judged(f"{form}, {label}", found[label], _bars(label, form))
    ]


def _judged(name: str, found: Numbers, least: Bars) -> Iterator[Bar]:
    ratios = found["ratios"]
    for count, ratio in ratios["decode"].items():
        yield at_least(f"{name}: decoding over llama.cpp, streams: {count}", ratio, least.decode[int(count)], unit="×")
    if least.prompt is not None:
        for prompt in (key for key in ratios if key.startswith("prompt_")):
            tokens = prompt.removeprefix("prompt_")
            yield at_least(f"{name}: prompt of {tokens} tokens over llama.cpp", ratios[prompt], least.prompt, unit="×")
    if least.weights is not None:
        yield at_most(f"{name}: weights over file", found["weights_over_file"], least.weights, unit="×")


def _measure(run: Run, path: Path, form: str) -> dict[str, object]:
    room = ["--model", f"bench={path}", "--threads", "2", "--max-batch", str(max(STREAMS))]
    room += ["--max-context", str(run.context)]
    shape = SweepShape(streams=run.streams, prompt_tokens=run.prompt, tokens=run.tokens, rounds=run.rounds)
    long = SweepShape(streams=(1,), prompt_tokens=LONG_PROMPT, tokens=2, rounds=run.rounds)
    with ExitStack() as stack:
        theirs = stack.enter_context(llama_server(run.server, path, context=run.context))
        houses = [
            stack.enter_context(own_server(room, label=label, environment=_ENVIRONMENT[label])) for label in run.labels
        ]
        targets = [*(server.target for server in houses), theirs]
        rows = asyncio.run(sweep(targets, shape, lambda what: print(form, what, flush=True)))
        rows += _renamed(asyncio.run(sweep(targets, long, lambda what: print(form, "prompt", what, flush=True))))
        weights = {server.target.label: server.weight_bytes() for server in houses}
    file_bytes = path.stat().st_size
    return {
        "file_mb": round(file_bytes / 1e6),
        "theirs": _absolute(run, rows, THEIRS),
        **{
            label: {
                "weights_over_file": round(rate(weights[label], f"weights of {label}") / file_bytes, 3),
                "absolute": _absolute(run, rows, label),
                "ratios": _ratios(run, rows, label),
            }
            for label in run.labels
        },
    }


def _bars(label: str, form: str) -> Bars:
    if label == OURS:
        return KERNEL_BARS.get(form, OTHER_KERNEL_BARS)
    return STOCK_BARS.get(form, OTHER_STOCK_BARS)


def _renamed(rows: list[SweepRow]) -> list[SweepRow]:
    """Rows of the long prompt, which are of no number of streams."""
    return [msgspec.structs.replace(row, streams=0) for row in rows]


def _ratios(run: Run, rows: list[SweepRow], label: str) -> dict[str, object]:
    ours, theirs = _by_streams(rows, label), _by_streams(rows, THEIRS)
    pairs = {str(count): (ours[count], theirs[count]) for count in run.streams}
    return {
        "decode": {count: round(_decoding(a) / _decoding(b), 3) for count, (a, b) in pairs.items()},
        "whole": {count: round(a.tokens_per_s / b.tokens_per_s, 3) for count, (a, b) in pairs.items()},
        **{
            name: round(ours[count].prompt_tokens_per_s / theirs[count].prompt_tokens_per_s, 3)
            for name, count in _prompts(run).items()
        },
    }


def _decoding(row: SweepRow) -> float:
    return rate(row.decode_tokens_per_s, f"{row.label}, decoding, streams: {row.streams}")


def _absolute(run: Run, rows: list[SweepRow], label: str) -> dict[str, object]:
    """Tokens a second, and milliseconds."""
    by_streams = _by_streams(rows, label)
    measured = {str(count): by_streams[count] for count in run.streams}
    return {
        "decode": {count: round(row.decode_tokens_per_s, 1) for count, row in measured.items()},
        "whole": {count: round(row.tokens_per_s, 1) for count, row in measured.items()},
        "first_token_ms": {count: round(row.first_token_ms) for count, row in measured.items()},
        **{name: round(by_streams[count].prompt_tokens_per_s, 1) for name, count in _prompts(run).items()},
    }


def _prompts(run: Run) -> dict[str, int]:
    """Name → streams of the row that has the speed of one prompt, until its first token."""
    return ({f"prompt_{run.prompt}": 1} if 1 in run.streams else {}) | {f"prompt_{LONG_PROMPT}": 0}


def _by_streams(rows: list[SweepRow], label: str) -> dict[int, SweepRow]:
    return {row.streams: row for row in rows if row.label == label}


@contextmanager
def llama_server(server: Path, model: Path, *, context: int) -> Generator[Target]:
    """Run their server for `max(STREAMS)` sequences of `context` tokens, ready."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    room = ["-c", str(context * max(STREAMS)), "-np", str(max(STREAMS)), "-t", "2"]
    command = [str(server), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--no-ui", *room]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_healthy(process, f"http://127.0.0.1:{port}/health")
        yield Target(label=THEIRS, url=f"http://127.0.0.1:{port}/v1", model="model")
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"llama-server ended with status {process.returncode}")
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("llama-server did not become ready within a minute")


if __name__ == "__main__":
    main()
