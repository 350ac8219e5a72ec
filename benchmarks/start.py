"""Start-up time, compared in turns with another installation: `serve` to ready, and starts that fail.

python -m benchmarks.start --against PYTHON [--python PYTHON] [--rounds 7]

PYTHON is the interpreter of an environment that Hostelry is installed in, such as that of an older checkout. Give
`--python` where the running one has more packages than Hostelry needs: Litestar imports some packages because they
are installed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.record import Bar, Numbers, at_most, tables, write_result
from gateway.demo import model_path

ROOT = Path(__file__).parents[1]
KEY = "sk-ho-benchmark"
BAR = 0.5
"""Most of the other installation's time: issue 13."""
_STOP_WITHIN_S = 40


class Installation(msgspec.Struct, frozen=True):
    """An interpreter, and the tree that it imports instead of what is installed."""

    python: str
    tree: Path | None = None

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `hostelry serve` on a free port. Compiled modules are kept, as for every user."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        if self.tree is not None:
            environment["PYTHONPATH"] = str(self.tree)
        return subprocess.Popen(
            [self.python, "-P", "-m", "gateway.cli", "serve", "--port", "0", "--api-key", KEY, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


Case = Callable[[Installation, Path], float]
"""Seconds of one start, with a folder of its own for that installation and round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", required=True, metavar="PYTHON")
    parser.add_argument("--python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    ours, theirs = Installation(arguments.python, ROOT), Installation(arguments.against)
    cases: dict[str, Case] = {
        "serve to ready": _ready,
        "serve to ready, second start": _ready_again,
        "a model that is not there": _missing,
        "a model file cut in half": _cut,
        "a wrong key in the configuration": _misconfigured,
    }
    numbers: dict[str, object] = {
        name: _in_turns(case, ours, theirs, rounds=arguments.rounds) for name, case in cases.items()
    }
    command = f"python -m benchmarks.start --against PYTHON --rounds {arguments.rounds}"
    write_result("start", {"rounds": arguments.rounds, **numbers}, bars=bars(numbers), command=command)


def bars(numbers: Numbers) -> list[Bar]:
    """The share of the other installation's time, a bar for each kind of start."""
    return [at_most(f"{name}: over the other", row["ratio"], BAR, unit="×") for name, row in tables(numbers).items()]


def _in_turns(case: Case, ours: Installation, theirs: Installation, *, rounds: int) -> Numbers:
    """Medians. The first round is not counted: it compiles modules and fills the page cache."""
    seconds: dict[Installation, list[float]] = {ours: [], theirs: []}
    for _ in range(1 + rounds):
        for installation, found in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                found.append(case(installation, Path(folder)))
    own, other = (statistics.median(found[1:]) for found in seconds.values())
    return {"ours_s": round(own, 3), "theirs_s": round(other, 3), "ratio": round(own / other, 3)}


def _ready(installation: Installation, folder: Path) -> float:
    began = time.monotonic()
    process = installation.start("--data-dir", str(folder))
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.monotonic() - began
    process.terminate()
    _, log = process.communicate(timeout=_STOP_WITHIN_S)
    if not line.startswith("ready "):
        raise SystemExit(f"{installation.python} did not become ready:\n{log}")
    return seconds


def _ready_again(installation: Installation, folder: Path) -> float:
    _ready(installation, folder)
    return _ready(installation, folder)


def _missing(installation: Installation, folder: Path) -> float:
    return _failing(installation, folder, "--model", str(folder / "nothing.gguf"), told="no such file")


def _cut(installation: Installation, folder: Path) -> float:
    whole, file = model_path().read_bytes(), folder / "cut.gguf"
    file.write_bytes(whole[: len(whole) // 2])
    return _failing(installation, folder, "--model", str(file), told="truncated or damaged")


def _misconfigured(installation: Installation, folder: Path) -> float:
    file = folder / "hostelry.toml"
    file.write_text("[server]\nprot = 8000\n", encoding="utf-8")
    return _failing(installation, folder, "--config", str(file), told="unknown key")


def _failing(installation: Installation, folder: Path, *arguments: str, told: str) -> float:
    """Seconds until the process has ended. It must have failed, with the message `told`."""
    began = time.monotonic()
    process = installation.start("--data-dir", str(folder), *arguments)
    _, log = process.communicate(timeout=_STOP_WITHIN_S)
    seconds = time.monotonic() - began
    if process.returncode == 0 or told not in log:
        raise SystemExit(f"{installation.python} should have failed because of {told!r}:\n{log}")
    return seconds


if __name__ == "__main__":
    main()
