"""Amount of code that a request and a step pass through, traced and compared with another tree.

python -m benchmarks.structure --against TREE [--python PYTHON]

TREE is another checkout, such as an older commit; PYTHON an interpreter with everything installed that both need.
Counted are the files of ours that one streamed chat executes, in the gateway and in the engine, and the calls of our
functions in a decode step of four sequences on onnx. Timed, in turns, are requests of one token and of 400 tokens with
the runner `fake`, which computes nothing: what is left is the gateway, and what the engine does around a step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path

import msgspec
import psutil
import uvloop

from benchmarks.closed_loop import closed_loop
from benchmarks.record import Bar, Numbers, at_least, at_most, write_result

ROOT = Path(__file__).parents[1]
KEY = "sk-ho-benchmark"
CHAT_FILES, STEP_CALLS, NO_WORSE = 35, 260, 0.98
"""Limits of issue 14. Two runs of the same tree differ by two per cent."""
REQUEST_STREAMS = (1, 16)
ROUNDS, WINDOW_S = 9, 1.0
_STEP_TOKENS = 400
STREAMS = 4
_LEAST_SEQUENCES = 3.9
"""A step, on average: streams begin a little after one another."""
_WAIT_S = 60.0
_TRACER = """
import json, os, signal, sys, threading

counts, steps = {}, [0]
root = os.environ["HOSTELRY_TRACE_ROOT"] + os.sep
rooms = tuple(os.path.join(root, name, "") for name in ("gateway", "backends", "adapters"))

def note(frame, event, argument):
    if event != "call":
        return
    code = frame.f_code
    if code.co_filename.startswith(rooms):
        place = code.co_filename[len(root):] + ":" + code.co_qualname
        counts[place] = counts.get(place, 0) + 1

def start(*ignored):
    counts.clear()
    threading.setprofile(note)
    sys.setprofile(note)

def stop(*ignored):
    sys.setprofile(None)
    threading.setprofile(None)
    path = os.path.join(os.environ["HOSTELRY_TRACE_FOLDER"], f"{os.getpid()}.json")
    with open(path + ".part", "w") as file:
        json.dump(counts, file)
    os.replace(path + ".part", path)

signal.signal(signal.SIGUSR1, start)
signal.signal(signal.SIGUSR2, stop)
"""
"""`sitecustomize` of both processes. Signals of a running server: the first begins to count, the second writes."""


class Calls(msgspec.Struct, frozen=True):
    """Calls by file and function, of one process."""

    by_place: dict[str, int]

    @property
    def files(self) -> set[str]:
        return {place.split(":")[0] for place in self.by_place}

    def of(self, file: str, function: str) -> int:
        """Calls of the functions with that name in files with that name."""
        found = (place.rpartition(":") for place in self.by_place)
        return sum(
            self.by_place[f"{path}:{name}"]
            for path, _, name in found
            if Path(path).name == file and name.rpartition(".")[2] == function
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", required=True, type=Path, metavar="TREE")
    parser.add_argument("--python", default=sys.executable, metavar="PYTHON")
    arguments = parser.parse_args()
    trees = {"ours": ROOT, "theirs": arguments.against.absolute()}
    numbers: dict[str, object] = {
        name: {
            "files of a streamed chat": _files_of_a_chat(arguments.python, tree),
            "calls of a decode step": round(_calls_of_a_step(arguments.python, tree), 1),
        }
        for name, tree in trees.items()
    }
    numbers["times"] = uvloop.run(_timed(arguments.python, trees))
    write_result("structure", numbers, bars=bars(numbers), command="python -m benchmarks.structure --against TREE")


def bars(numbers: Numbers) -> list[Bar]:
    """Files that a streamed chat crosses in the gateway, calls of a decode step, and speeds over the other tree's."""
    ours = numbers["ours"]
    return [
        at_most("files of a streamed chat in the gateway", ours["files of a streamed chat"]["gateway"], CHAT_FILES),
        at_most(f"calls of a decode step of {STREAMS} sequences on onnx", ours["calls of a decode step"], STEP_CALLS),
        *(
            at_least(f"{name} over the other tree", row["ratio"], NO_WORSE, unit="×")
            for name, row in numbers["times"].items()
        ),
    ]


def _files_of_a_chat(python: str, tree: Path) -> dict[str, int]:
    with _server(python, tree) as server:
        _chat(server, max_tokens=4)
        _chat(server, max_tokens=4)
        with server.counting() as found:
            _chat(server, max_tokens=4)
    gateway, engine = (calls.files for calls in found)
    return {"gateway": len(gateway), "engine": len(engine), "together": len(gateway | engine)}


async def _timed(python: str, trees: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Medians of windows taken in turns."""
    cases = {f"requests/s, {streams} connections": (streams, 1) for streams in REQUEST_STREAMS}
    cases[f"answers of {_STEP_TOKENS} tokens/s, {STREAMS} connections"] = (STREAMS, _STEP_TOKENS)
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(_server(python, tree, backend="fake")) for name, tree in trees.items()}
        found: dict[str, dict[str, list[float]]] = {case: {name: [] for name in trees} for case in cases}
        for number in range(1 + ROUNDS):
            for case, (streams, tokens) in cases.items():
                for name, server in servers.items():
                    asked = await closed_loop(
                        f"{server.url}/v1/chat/completions", _body(tokens), key=KEY, streams=streams, seconds=WINDOW_S
                    )
                    if number:  # the first round warms up
                        found[case][name].append(asked.per_s)
    return {case: _compared(sides["ours"], sides["theirs"]) for case, sides in found.items()}


def _compared(ours: list[float], theirs: list[float]) -> dict[str, float]:
    own, other = statistics.median(ours), statistics.median(theirs)
    return {"ours_per_s": round(own, 2), "theirs_per_s": round(other, 2), "ratio": round(own / other, 3)}


def _calls_of_a_step(python: str, tree: Path) -> float:
    with _server(python, tree) as server:
        streams = [threading.Thread(target=_chat, args=(server,), kwargs={"max_tokens": 900}) for _ in range(STREAMS)]
        with server.counting() as found:
            for stream in streams:
                stream.start()
            for stream in streams:
                stream.join()
    (engine,) = (calls for calls in found if calls.of("loop.py", "step"))
    steps = engine.of("loop.py", "step")
    if engine.of("loop.py", "_commit_one") < _LEAST_SEQUENCES * steps:
        raise SystemExit(f"fewer than {_LEAST_SEQUENCES} sequences a step; run it on an empty machine")
    return sum(engine.by_place.values()) / steps


class Server(msgspec.Struct, frozen=True):
    """A running server whose processes can be traced."""

    url: str
    pid: int
    folder: Path

    @contextlib.contextmanager
    def counting(self) -> Generator[list[Calls]]:
        """Count calls within the block; the list is filled at its end, one entry a process."""
        found: list[Calls] = []
        pids = [self.pid, *(child.pid for child in psutil.Process(self.pid).children())]
        for pid in pids:
            os.kill(pid, signal.SIGUSR1)
        time.sleep(0.1)
        yield found
        for pid in pids:
            os.kill(pid, signal.SIGUSR2)
        found += [Calls(json.loads(_text_of(self.folder / f"{pid}.json"))) for pid in pids]


@contextlib.contextmanager
def _server(python: str, tree: Path, *, backend: str = "onnx") -> Generator[Server]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(_TRACER, encoding="utf-8")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment |= {
            "PYTHONPATH": os.pathsep.join((str(folder), str(tree))),
            "HOSTELRY_TRACE_ROOT": str(tree),
            "HOSTELRY_TRACE_FOLDER": str(folder),
        }
        options = ["--port", "0", "--api-key", KEY, "--backend", backend, "--data-dir", str(folder / "data")]
        process = subprocess.Popen(
            [python, "-P", "-m", "gateway.cli", "serve", *options],
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("ready "):
                raise SystemExit(f"the server of {tree} did not become ready")
            yield Server(line.split()[1], process.pid, folder)
        finally:
            process.terminate()
            process.wait(_WAIT_S)


def _chat(server: Server, *, max_tokens: int) -> None:
    """A streamed chat, read to its end; it has `max_tokens` tokens."""
    body = _body(max_tokens) | {"stream": True}
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_WAIT_S) as response:
        if not response.read().rstrip().endswith(b"[DONE]"):
            raise SystemExit("the stream did not end as it should")


def _body(max_tokens: int) -> dict[str, object]:
    return {
        "model": "hostelry-demo",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
    }


def _text_of(path: Path) -> str:
    """Wait for a file that another process writes."""
    until = time.monotonic() + _WAIT_S
    while not path.exists():
        if time.monotonic() > until:
            raise SystemExit(f"{path.name} was not written")
        time.sleep(0.02)
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
