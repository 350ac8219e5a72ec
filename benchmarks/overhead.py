"""Gateway, text, scheduler and HTTP against the engine called in process: same model, same prompt, same tokens.

    python -m benchmarks.overhead [--rounds 9] [--tokens 64]

The demo model, expanded to 107 M parameters without changing its function, answers one prompt with `tokens` greedy
tokens: once by calling the runner directly in this process (prefill, then one row a step, argmax), once over HTTP on a
kept-alive connection, whole body. Blocks in the order ABAB, so that both sides run warm; medians over all but the first
round. The client is the standard library's, whose own cost is small.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

from backends.api import KVLimit, Runner, Step
from backends.loading import open_model
from backends.registry import create_runner
from benchmarks.record import Bar, Numbers, at_most, write_result

KEY = "sk-ho-benchmark"
PROMPT = list(range(300, 332))


MODEL = "big"
SHORT_BLOCK = 6
"""One-token requests in a row; the first of a block is a warm-up."""
SHARE_BAR_PERCENT, ADDED_BAR_MS = 3, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / MODEL
        growth = ["--hidden", "1024", "--layers", "9", "--ffn", "2816", "--heads-factor", "4"]
        subprocess.run([sys.executable, "-m", "tools.demo_model.expand", str(model), *growth], check=True)
        with _server(model, Path(directory) / "data") as client:
            numbers = _measure(_bare_engine(model), client, rounds=arguments.rounds, tokens=arguments.tokens)
    command = f"python -m benchmarks.overhead --rounds {arguments.rounds} --tokens {arguments.tokens}"
    write_result("overhead", numbers, bars=bars(numbers), command=command)


def bars(numbers: Numbers) -> list[Bar]:
    """Bars of the gateway's share of a long response, and of the time it adds to a short one."""
    share = f"gateway's share of an answer of {numbers['tokens']} tokens"
    return [
        at_most(share, numbers["overhead_percent"], SHARE_BAR_PERCENT, unit="%"),
        at_most("added to a one-token request, p50", numbers["added_ms_p50_a_request"], ADDED_BAR_MS, unit="ms"),
    ]


def _measure(runner: Runner, client: HTTPConnection, *, rounds: int, tokens: int) -> dict[str, object]:
    """Medians in ms of whole requests, bare and over HTTP, interleaved; then of one-token requests."""
    long_bare, long_http, short_bare, short_http = [], [], [], []
    for number in range(rounds + 1):
        long_bare += [_bare(runner, tokens)] * bool(number)
        long_http += [_http(client, tokens)] * bool(number)
        short_bare += [_bare(runner, 1) for _ in range(SHORT_BLOCK)][1:]
        short_http += [_http(client, 1) for _ in range(SHORT_BLOCK)][1:]
    bare, http, bare_one, http_one = (
        1000 * statistics.median(times) for times in (long_bare, long_http, short_bare, short_http)
    )
    return {
        "tokens": tokens,
        "bare_engine_ms": round(bare, 1),
        "over_http_ms": round(http, 1),
        "overhead_percent": round(100 * (http - bare) / http, 2),
        "added_ms_per_token": round((http - bare) / tokens, 3),
        "one_token_bare_ms": round(bare_one, 2),
        "one_token_over_http_ms": round(http_one, 2),
        "added_ms_p50_a_request": round(http_one - bare_one, 2),
    }


def _bare_engine(model: Path) -> Runner:
    runner = create_runner("onnx")
    runner.load(open_model(model), lambda _: None)
    runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=1, max_context=512))
    runner.warmup()
    return runner


def _bare(runner: Runner, tokens: int) -> float:
    """Seconds for prefill and greedy decode with nothing around the runner."""
    start = time.perf_counter()
    token, length = _step(runner, PROMPT, 0), len(PROMPT)
    for _ in range(tokens - 1):
        token = _step(runner, [token], length)
        length += 1
    return time.perf_counter() - start


def _step(runner: Runner, ids: list[int], computed: int) -> int:
    step = Step(
        token_ids=np.array(ids, np.int64),
        positions=np.arange(computed, computed + len(ids), dtype=np.int32),
        q_start=np.array([0, len(ids)], np.int32),
        kv_len=np.array([computed + len(ids)], np.int32),
        slot=np.zeros(1, np.int32),
        logit_rows=np.array([len(ids) - 1], np.int32),
        lora=np.full(1, -1, np.int32),
    )
    return int(runner.collect(runner.submit(step)).logits[0].argmax())


def _http(client: HTTPConnection, tokens: int) -> float:
    """Seconds of one whole-body request with the same token ids."""
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    encoded = json.dumps(body)
    start = time.perf_counter()
    client.request("POST", "/v1/completions", encoded, headers)
    answer = client.getresponse().read()
    elapsed = time.perf_counter() - start
    assert json.loads(answer)["usage"]["completion_tokens"] == tokens
    return elapsed


@contextmanager
def _server(model: Path, data_dir: Path) -> Generator[HTTPConnection]:
    arguments = ["--port", "0", "--model", f"{MODEL}={model}", "--data-dir", str(data_dir), "--api-key", KEY]
    arguments.append("--no-prefix-cache")  # the bare engine computes the prompt each time
    command = [sys.executable, "-m", "gateway.cli", "serve", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        url = next(line.split()[1] for line in process.stdout if line.startswith("ready "))
        yield HTTPConnection(url.removeprefix("http://"), timeout=120)
    finally:
        process.terminate()
        process.wait(timeout=40)


if __name__ == "__main__":
    main()
