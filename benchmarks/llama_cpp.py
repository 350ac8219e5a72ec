"""Our server against llama.cpp's on the same GGUF files, over HTTP, interleaved in one run.

    python -m benchmarks.llama_cpp --server PATH/llama-server [--formats Q4_0 Q8_0 Q4_K …] [--rounds 3]

A random llama of 495 million weights is quantized by `hostelry quantize --pure` to each format. Both servers get two
threads, room for 16 sequences and the same client; rounds alternate between them, medians are compared. `llama-server`
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
BARS = {"Q4_0": (0.8, 0.8, 0.8), "Q8_0": (1.2, 1.5, 1.5), "Q4_K": (0.6, 0.8, 0.0)}
"""Format → least ratio at one stream, at more, and of prompt processing. Every other format: 0.5."""
OTHER_BARS = (0.5, 0.5, 0.5)
THEIRS = "llama.cpp"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("--formats", nargs="+", default=["Q4_0", "Q8_0", "Q4_K"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    numbers: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as directory:
        source = make_random_model(Path(directory) / "model", sizes=HALF_B_MODEL, dtype="F16")
        for form in arguments.formats:
            path = Path(directory) / f"{form}.gguf"
            quantize_file(source, path, format=form, pure=True)
            numbers[form] = _measure(arguments.server, path, rounds=arguments.rounds) | {"bars": _bars(form)}
            path.unlink()
    command = f"python -m benchmarks.llama_cpp --server llama-server --formats {' '.join(arguments.formats)}"
    write_result("llama_cpp", numbers, command=f"{command} --rounds {arguments.rounds}")


def _measure(server: Path, path: Path, *, rounds: int) -> dict[str, object]:
    room = ["--threads", "2", "--max-batch", str(max(STREAMS)), "--max-context", str(CONTEXT)]
    shape = Shape(streams=STREAMS, prompt_tokens=PROMPT_TOKENS, tokens=TOKENS, rounds=rounds)
    long = Shape(streams=(1,), prompt_tokens=LONG_PROMPT, tokens=2, rounds=rounds)
    with _llama_server(server, path) as theirs, own_house(["--model", f"bench={path}", *room]) as house:
        targets = [house.target, theirs]
        rows = asyncio.run(sweep(targets, shape, lambda what: print(path.stem, what, flush=True)))
        prompts = asyncio.run(sweep(targets, long, lambda what: print(path.stem, "prompt", what, flush=True)))
        resident = house.resident_bytes()
        weights = house.weight_bytes()
    return {
        "file_mb": round(path.stat().st_size / 1e6),
        "resident_mb": round(resident / 1e6),
        "weights_over_file": round(weights / path.stat().st_size, 3),
        "by_streams": {str(count): _pair(rows, count) for count in STREAMS},
        f"prompt_of_{LONG_PROMPT}": _prompt_pair(prompts),
    }


def _both(rows: list[Row], count: int) -> tuple[Row, Row]:
    ours = next(row for row in rows if row.streams == count and row.label != THEIRS)
    theirs = next(row for row in rows if row.streams == count and row.label == THEIRS)
    return ours, theirs


def _prompt_pair(rows: list[Row]) -> dict[str, float]:
    ours, theirs = (row.prompt_tokens_per_s for row in _both(rows, 1))
    return {"ratio": round(ours / theirs, 2), "ours": round(ours, 1), "theirs": round(theirs, 1)}


def _pair(rows: list[Row], count: int) -> dict[str, object]:
    ours, theirs = _both(rows, count)
    return {
        "decode_ratio": round(ours.decode_tokens_per_s / theirs.decode_tokens_per_s, 2),
        "whole_ratio": round(ours.tokens_per_s / theirs.tokens_per_s, 2),
        "prompt_ratio": round(ours.prompt_tokens_per_s / theirs.prompt_tokens_per_s, 2),
        "ours": _short(ours),
        "theirs": _short(theirs),
    }


def _short(row: Row) -> dict[str, object]:
    wanted = ("tokens_per_s", "decode_tokens_per_s", "prompt_tokens_per_s", "first_token_ms", "between_tokens_ms")
    return {name: round(value, 1) for name, value in msgspec.structs.asdict(row).items() if name in wanted}


def _bars(form: str) -> dict[str, float]:
    alone, more, prompt = BARS.get(form, OTHER_BARS)
    return {"one_stream": alone, "more_streams": more, "prompt": prompt}


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
