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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from backends.quantize import quantize_file
from backends.testing.models import HALF_B_MODEL, make_random_model
from benchmarks.record import write_result
from gateway.bench.house import own_house
from gateway.bench.load import Target
from gateway.bench.sweep import Row, Shape, sweep
from gateway.port import bind

STREAMS = (1, 4, 8, 16)
PROMPT_TOKENS, TOKENS = 128, 48
LONG_PROMPT = 512
CONTEXT = 768
"""Tokens of one sequence."""
THEIRS, OURS, STOCK = "llama.cpp", "kernels", "MatMulNBits"


class Bars(msgspec.Struct, frozen=True):
    """Least ratios to llama.cpp: decoding by streams, and prompts."""

    decode: dict[int, float]
    prompt: float


KERNEL_BARS = {
    "Q4_0": Bars({1: 1.15, 4: 1.4, 8: 1.6, 16: 1.4}, 1.8),
    "Q4_K": Bars({1: 1.05, 4: 1.6, 8: 1.6, 16: 1.6}, 1.9),
    "Q8_0": Bars({1: 1.3, 4: 2.5, 8: 2.5, 16: 2.5}, 3.0),
}
OTHER_KERNEL_BARS = Bars({1: 1.0, 4: 1.2, 8: 1.2, 16: 1.2}, 1.3)
STOCK_BARS = {
    "Q4_0": Bars(dict.fromkeys(STREAMS, 0.8), 0.8),
    "Q4_K": Bars({1: 0.6, 4: 0.8, 8: 0.8, 16: 0.8}, 0.0),
    "Q8_0": Bars({1: 1.2, 4: 1.5, 8: 1.5, 16: 1.5}, 1.5),
}
OTHER_STOCK_BARS = Bars(dict.fromkeys(STREAMS, 0.5), 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("--formats", nargs="+", default=["Q4_0", "Q8_0", "Q4_K"])
    parser.add_argument("--streams", nargs="+", type=int, choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="llama_cpp", help="of the file with the results")
    arguments = parser.parse_args()
    wanted = f"--formats {' '.join(arguments.formats)} --streams {' '.join(map(str, arguments.streams))}"
    command = f"python -m benchmarks.llama_cpp --server llama-server {wanted} --rounds {arguments.rounds}"
    numbers: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as directory:
        source = make_random_model(Path(directory) / "model", sizes=HALF_B_MODEL, dtype="F16")
        for form in arguments.formats:
            path = Path(directory) / f"{form}.gguf"
            quantize_file(source, path, format=form, pure=True)
            numbers[form] = _measure(arguments.server, path, form, tuple(arguments.streams), rounds=arguments.rounds)
            write_result(arguments.name, numbers, command=f"{command} --name {arguments.name}")
            path.unlink()


def _measure(server: Path, path: Path, form: str, streams: tuple[int, ...], *, rounds: int) -> dict[str, object]:
    room = ["--model", f"bench={path}", "--threads", "2", "--max-batch", str(max(STREAMS))]
    room += ["--max-context", str(CONTEXT)]
    shape = Shape(streams=streams, prompt_tokens=PROMPT_TOKENS, tokens=TOKENS, rounds=rounds)
    long = Shape(streams=(1,), prompt_tokens=LONG_PROMPT, tokens=2, rounds=rounds)
    with (
        _llama_server(server, path) as theirs,
        own_house(room, label=OURS) as ours,
        own_house(room, label=STOCK, environment={"HOSTELRY_KERNELS": "0"}) as stock,
    ):
        targets = [ours.target, stock.target, theirs]
        rows = asyncio.run(sweep(targets, shape, lambda what: print(form, what, flush=True)))
        prompts = asyncio.run(sweep(targets, long, lambda what: print(form, "prompt", what, flush=True)))
        weights = {house.target.label: house.weight_bytes() for house in (ours, stock)}
    bars = {OURS: KERNEL_BARS.get(form, OTHER_KERNEL_BARS), STOCK: STOCK_BARS.get(form, OTHER_STOCK_BARS)}
    file_bytes = path.stat().st_size
    return {
        "file_mb": round(file_bytes / 1e6),
        "theirs": _absolute(rows, prompts, THEIRS),
        **{
            label: {
                "weights_over_file": round(weights[label] / file_bytes, 3),
                "absolute": _absolute(rows, prompts, label),
                "ratios": _ratios(rows, prompts, label),
                "bars": msgspec.to_builtins(bars[label], str_keys=True),
            }
            for label in (OURS, STOCK)
        },
    }


def _ratios(rows: list[Row], prompts: list[Row], label: str) -> dict[str, object]:
    ours, theirs = _by_streams(rows, label), _by_streams(rows, THEIRS)
    pairs = {str(count): (ours[count], theirs[count]) for count in ours}
    return {
        "decode": {count: round(a.decode_tokens_per_s / b.decode_tokens_per_s, 2) for count, (a, b) in pairs.items()},
        "whole": {count: round(a.tokens_per_s / b.tokens_per_s, 2) for count, (a, b) in pairs.items()},
        f"prompt_{PROMPT_TOKENS}": round(_prompt_speed(rows, label) / _prompt_speed(rows, THEIRS), 2),
        f"prompt_{LONG_PROMPT}": round(_prompt_speed(prompts, label) / _prompt_speed(prompts, THEIRS), 2),
    }


def _absolute(rows: list[Row], prompts: list[Row], label: str) -> dict[str, object]:
    """Tokens a second, and milliseconds."""
    by_streams = _by_streams(rows, label)
    return {
        "decode": {str(count): round(row.decode_tokens_per_s, 1) for count, row in by_streams.items()},
        "whole": {str(count): round(row.tokens_per_s, 1) for count, row in by_streams.items()},
        "first_token_ms": {str(count): round(row.first_token_ms) for count, row in by_streams.items()},
        f"prompt_{PROMPT_TOKENS}": round(_prompt_speed(rows, label), 1),
        f"prompt_{LONG_PROMPT}": round(_prompt_speed(prompts, label), 1),
    }


def _by_streams(rows: list[Row], label: str) -> dict[int, Row]:
    return {row.streams: row for row in rows if row.label == label}


def _prompt_speed(rows: list[Row], label: str) -> float:
    """Of one stream, until its first token."""
    return _by_streams(rows, label)[1].prompt_tokens_per_s


@contextmanager
def _llama_server(server: Path, model: Path) -> Iterator[Target]:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    room = ["-c", str(CONTEXT * max(STREAMS)), "-np", str(max(STREAMS)), "-t", "2"]
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
