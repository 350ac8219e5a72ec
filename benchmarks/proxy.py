"""The gateway's own cost compared with the LiteLLM proxy's, interleaved in one run; whole responses, closed loop.

python -m benchmarks.proxy [--rounds 7] [--seconds 2] [--venv FOLDER]

Both gateways share one core and take turns, the client has another. LiteLLM's upstream is a stub on the client's core;
its added time is its median less the stub's own. Hostelry has every feature on: a tenant's key with limits a minute,
budgets in tokens and money, prices, the usage journal, metrics. Its engine is a separate process with a runner that
computes nothing, on the gateway's core; everything counts as added, engine included, so the comparison is unkind to
it. LiteLLM is installed into FOLDER, by default below the system's temporary folder, where it stays for the next run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import psutil
import uvloop

from benchmarks import litellm_proxy
from benchmarks.closed_loop import Asked, closed_loop
from benchmarks.record import Bar, Numbers, at_least, write_result
from gateway.bench.own_server import MODEL, own_server
from gateway.demo import model_path

STREAMS = (1, 16, 64)
REQUESTS_BAR, ADDED_BAR = 10, 10
"""Least times LiteLLM's requests a second, and least times less time added to the median response."""
OURS, THEIRS, DIRECT = "hostelry", "litellm", "stub"
_WARM_UP_S = 3.0
_MESSAGES = [{"role": "user", "content": "Write one short line about the sea, please."}]

_CONFIG = """\
[[models]]
path = "{path}"
name = "{model}"
backend = "fake"
max_batch = 64
price = {{ input = 0.15, output = 0.6 }}

[[tenants]]
name = "measured"
keys = ["{key}"]

[tenants.limits]
requests_per_minute = 1_000_000_000
tokens_per_minute = 1_000_000_000_000
concurrent_requests = 1_000
tokens_per_day = 1_000_000_000_000
cost_per_month = 1_000_000
"""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """Server to measure, and its topmost process."""

    label: str
    url: str
    model: str
    key: str
    pid: int

    async def ask(self, *, streams: int, seconds: float) -> Stretch:
        body = {"model": self.model, "messages": _MESSAGES, "max_tokens": 1, "temperature": 0}
        path, before = f"{self.url}/chat/completions", _cpu_s(self.pid)
        asked = await closed_loop(path, body, key=self.key, streams=streams, seconds=seconds)
        return Stretch(asked=asked, cpu_s=_cpu_s(self.pid) - before)


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of one side, and the processor time of its processes."""

    asked: Asked
    cpu_s: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over turns."""

    requests_per_s: float
    p50_ms: float
    p95_ms: float
    cpu_us_a_request: float
    client_cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--venv", type=Path, default=None)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("the client needs a core of its own: give this process two")
    command = litellm_proxy.installed(arguments.venv)
    with ExitStack() as stack:
        with _pinned(cores[1]):
            upstream = stack.enter_context(_stub())
        with _pinned(cores[0]):
            theirs = stack.enter_context(_litellm(command, upstream.url))
            ours = stack.enter_context(_hostelry())
        with _pinned(cores[1]):
            turns = _turns((upstream, theirs, ours), rounds=arguments.rounds, seconds=arguments.seconds)
            measured = uvloop.run(turns)
    line = f"python -m benchmarks.proxy --rounds {arguments.rounds} --seconds {arguments.seconds:g}"
    numbers = _numbers(measured)
    write_result("proxy", numbers, bars=bars(numbers), command=line)


def bars(numbers: Numbers) -> list[Bar]:
    """Both bars at every number of connections."""
    return [bar for streams, found in numbers["connections"].items() for bar in _bars_at(streams, found)]


def _bars_at(streams: str, found: Numbers) -> tuple[Bar, Bar]:
    at = f"{streams} connection{'s' * (streams != '1')}"
    return (
        at_least(f"{at}: requests/s over LiteLLM", found["times_requests_per_s"], REQUESTS_BAR, unit="×"),
        at_least(f"{at}: times less added p50", found["times_less_added_p50"], ADDED_BAR, unit="×"),
    )


async def _turns(sides: tuple[Side, ...], *, rounds: int, seconds: float) -> dict[tuple[str, int], list[Stretch]]:
    """Round by round, each side in turn, at every number of connections."""
    found: dict[tuple[str, int], list[Stretch]] = {}
    for side in sides:
        await side.ask(streams=max(STREAMS), seconds=_WARM_UP_S)
    for _ in range(rounds):
        for streams in STREAMS:
            for side in sides:
                stretch = await side.ask(streams=streams, seconds=seconds)
                found.setdefault((side.label, streams), []).append(stretch)
                await asyncio.sleep(0.1)  # work of a side after its last response must not count for the next one
    return found


def _numbers(measured: dict[tuple[str, int], list[Stretch]]) -> dict[str, object]:
    rows = {key: _row(stretches) for key, stretches in measured.items()}
    return {
        "litellm": litellm_proxy.PIN,
        "connections": {str(streams): _compared(rows, streams) for streams in STREAMS},
    }


def _compared(rows: dict[tuple[str, int], Row], streams: int) -> dict[str, object]:
    ours, theirs, direct = (rows[label, streams] for label in (OURS, THEIRS, DIRECT))
    added_ms = theirs.p50_ms - direct.p50_ms
    times_rate, times_added = ours.requests_per_s / theirs.requests_per_s, added_ms / ours.p50_ms
    return {
        **{label: msgspec.structs.asdict(rows[label, streams]) for label in (OURS, THEIRS, DIRECT)},
        "added_p50_ms": {OURS: ours.p50_ms, THEIRS: round(added_ms, 3)},
        "times_requests_per_s": round(times_rate, 3),
        "times_less_added_p50": round(times_added, 3),
        "times_less_cpu": round(theirs.cpu_us_a_request / ours.cpu_us_a_request, 1),
    }


def _row(stretches: list[Stretch]) -> Row:
    cuts = [statistics.quantiles(each.asked.latencies_s, n=20, method="inclusive") for each in stretches]
    return Row(
        requests_per_s=round(statistics.median(each.asked.per_s for each in stretches), 1),
        p50_ms=round(1000 * statistics.median(cut[9] for cut in cuts), 3),
        p95_ms=round(1000 * statistics.median(cut[18] for cut in cuts), 3),
        cpu_us_a_request=round(
            1e6 * statistics.median(each.cpu_s / len(each.asked.latencies_s) for each in stretches), 1
        ),
        client_cpu=round(statistics.median(each.asked.client_cpu for each in stretches), 2),
    )


def _cpu_s(pid: int) -> float:
    """Processor time of a process and all below it."""
    top = psutil.Process(pid)
    times = [process.cpu_times() for process in (top, *top.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


@contextmanager
def _pinned(core: int) -> Generator[None]:
    """Pin this process, and the processes it starts meanwhile, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _hostelry() -> Generator[Side]:
    key = f"sk-ho-{secrets.token_urlsafe(24)}"
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "hostelry.toml"
        config.write_text(_CONFIG.format(path=model_path(), model=MODEL, key=key), encoding="utf-8")
        with own_server(["--config", str(config)]) as server:
            yield Side(label=OURS, url=server.target.url, model=MODEL, key=key, pid=server.pid)


@contextmanager
def _litellm(command: Path, upstream: str) -> Generator[Side]:
    with litellm_proxy.litellm_proxy(command, upstream=upstream) as (url, pid):
        yield Side(label=THEIRS, url=f"{url}/v1", model=litellm_proxy.MODEL, key=litellm_proxy.KEY, pid=pid)


@contextmanager
def _stub() -> Generator[Side]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.stub"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        yield Side(label=DIRECT, url=f"{url}/v1", model=litellm_proxy.MODEL, key="none", pid=process.pid)
    finally:
        process.terminate()
        process.wait(timeout=10)


if __name__ == "__main__":
    main()
