"""The first experience of a new user: a fresh clone's first token, a second run, `serve` to ready, memory.

python -m benchmarks.first_day [--clone]      (--clone also times `make quickstart` from a fresh clone, with the CPU
kernels and without)
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from benchmarks.record import Bar, Numbers, at_most, write_result
from gateway.demo import MODEL_NAME

ROOT = Path(__file__).parents[1]
KEY = "sk-ho-benchmark"
READY_BAR_S, MEMORY_BAR_MB = 2.5, 250
FRESH_BAR_S, AGAIN_BAR_S = 60, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", action="store_true")
    arguments = parser.parse_args()
    starts = [_serve_once() for _ in range(5)]
    numbers: dict[str, object] = {
        "serve_to_ready_s": round(statistics.median(start.ready_s for start in starts), 2),
        "gateway_rss_mb": round(statistics.median(start.gateway_mb for start in starts)),
        "engine_rss_mb": round(statistics.median(start.engine_mb for start in starts)),
        "total_rss_mb": round(statistics.median(start.gateway_mb + start.engine_mb for start in starts)),
        "total_pss_mb": round(statistics.median(start.pss_mb for start in starts)),
    }
    if arguments.clone:
        numbers |= _quickstart_times() | _quickstart_without_kernels()
    command = "python -m benchmarks.first_day" + " --clone" * arguments.clone
    write_result("first_day", numbers, bars=bars(numbers), command=command)


def bars(numbers: Numbers) -> list[Bar]:
    """Start and memory; those of the quickstart where a clone was timed."""
    found = [
        at_most("serve to ready", numbers["serve_to_ready_s"], READY_BAR_S, unit="s"),
        at_most("memory of gateway and engine", numbers["total_rss_mb"], MEMORY_BAR_MB, unit="MB"),
    ]
    if "quickstart_fresh_s" in numbers:
        has_torch = int(numbers["quickstart_venv_has_torch"])
        found += [
            at_most(
                "quickstart of a fresh clone to the first token", numbers["quickstart_fresh_s"], FRESH_BAR_S, unit="s"
            ),
            at_most("quickstart again", numbers["quickstart_again_s"], AGAIN_BAR_S, unit="s"),
            at_most("torch in the quickstart's environment", has_torch, 0),
        ]
    return found


class Start:
    """One start of the server: seconds to ready, megabytes after one response."""

    def __init__(self, ready_s: float, gateway_mb: float, engine_mb: float, pss_mb: float) -> None:
        self.ready_s, self.gateway_mb, self.engine_mb, self.pss_mb = ready_s, gateway_mb, engine_mb, pss_mb


def _serve_once() -> Start:
    with tempfile.TemporaryDirectory() as data_dir:
        command = [
            sys.executable,
            "-m",
            "gateway.cli",
            "serve",
            "--port",
            "0",
            "--data-dir",
            data_dir,
            "--api-key",
            KEY,
        ]
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            url = next(line.split()[1] for line in process.stdout if line.startswith("ready "))
            ready_s = time.monotonic() - start
            _ask(url)
            return Start(ready_s, *_memory(process.pid))
        finally:
            process.terminate()
            process.wait(timeout=40)


def _ask(url: str) -> None:
    body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": "capital of France"}], "temperature": 0}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=30)
    answer.raise_for_status()


def _memory(pid: int) -> tuple[float, float, float]:
    """Resident megabytes of gateway and engine, and their proportional sum (shared pages counted once)."""
    gateway = psutil.Process(pid)
    engines = gateway.children(recursive=True)
    everyone = [gateway, *engines]
    return (
        gateway.memory_info().rss / 1e6,
        sum(engine.memory_info().rss for engine in engines) / 1e6,
        sum(process.memory_full_info().pss for process in everyone) / 1e6,
    )


def _quickstart_times() -> dict[str, object]:
    """Seconds from `make quickstart` to the first streamed token: fresh clone and venv, then again."""
    with tempfile.TemporaryDirectory() as directory:
        clone = _clone(directory)
        fresh, again = (_quickstart(clone) for _ in range(2))
        torch = subprocess.run([clone / ".venv/bin/python", "-c", "import torch"], capture_output=True, check=False)
        return {
            "quickstart_fresh_s": fresh,
            "quickstart_again_s": again,
            "quickstart_has_kernels": any((clone / "backends/kernels").glob("libhostelry_kernels.*")),
            "quickstart_venv_has_torch": torch.returncode == 0,
        }


def _quickstart_without_kernels() -> dict[str, object]:
    """The same without a compiler, or with the kernels switched off."""
    with tempfile.TemporaryDirectory() as directory:
        clone = _clone(directory)
        return {"quickstart_without_kernels_fresh_s": _quickstart(clone, HOSTELRY_BUILD_KERNELS="0")}


def _clone(directory: str) -> Path:
    clone = Path(directory) / "hostelry"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    return clone


def _quickstart(clone: Path, **settings: str) -> float:
    command = ["make", "quickstart", "ARGS=--once --port 0 --data-dir data"]
    start = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **settings}
    process = subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    output = ""
    while "\n> " not in output or not output.rsplit("> ", 1)[1].partition("\n")[2]:
        character = process.stdout.read(1)
        if not character:
            raise SystemExit(f"quickstart ended without an answer:\n{output}")
        output += character
    elapsed = time.monotonic() - start
    process.communicate(timeout=60)
    return round(elapsed, 1)


if __name__ == "__main__":
    main()
