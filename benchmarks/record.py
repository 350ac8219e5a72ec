"""Result files: command and machine, the numbers, and the bars that the numbers meet or miss.

Each benchmark has a function `bars(numbers)`, which judges the numbers as recorded; `write_result` writes both.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.process.terminal import machine_facts

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
_LOAD_BEFORE = os.getloadavg()[0]

Numbers = dict[str, Any]  # Any: JSON, in the benchmark's own shape
"""Measurements of a result. Bars are judged on them, so ratios are rounded to more digits than their bars have."""
Direction = Literal["at least", "at most"]


class NothingMeasured(Exception):
    """A measuring window was empty, so its rate would be 0 or meaningless; measure longer, or send more."""


class Bar(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A measured value and its limit. Made by `at_least` and `at_most`, or read from a file.

    Raises `ValueError` where `holds` contradicts value and bar, or where either is no finite number.
    """

    name: str
    value: float
    bar: float
    direction: Direction
    holds: bool
    unit: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and math.isfinite(self.bar)):
            raise ValueError(f"{self.name}: value {self.value} and bar {self.bar} must be finite; measure again")
        if self.holds != _holds(self.value, self.bar, self.direction):
            raise ValueError(
                f"{self.name}: {self.value} {self.direction} {self.bar} cannot be recorded as holds={self.holds}; "
                "run python -m benchmarks.bars"
            )

    @property
    def is_missed(self) -> bool:
        return not self.holds


class NoBars(msgspec.Struct, frozen=True):
    """Stands for the bars of a benchmark that has none, with the reason."""

    reason: str


Judged = Sequence[Bar] | NoBars


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A result file. Raises `ValueError` unless it has bars, each name once, or else the reason why it has none."""

    command: str
    commit: str
    """Measured commit; results from before this was recorded have the commit that added them."""
    date: str
    machine: dict[str, str]
    bars: tuple[Bar, ...]
    no_bars: str = ""
    numbers: Numbers

    def __post_init__(self) -> None:
        if bool(self.bars) == bool(self.no_bars):
            raise ValueError("a result needs bars, or else NoBars with the reason; give one of them")
        names = [bar.name for bar in self.bars]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"several bars are named {', '.join(repeated)}; name each differently")


def at_least(name: str, value: float, bar: float, *, unit: str = "") -> Bar:
    """A bar that the value must reach; the bar itself is enough."""
    return _judge(name, value, bar, "at least", unit)


def at_most(name: str, value: float, bar: float, *, unit: str = "") -> Bar:
    """A bar that the value must not pass; the bar itself is allowed."""
    return _judge(name, value, bar, "at most", unit)


def rate(per_s: float, what: str) -> float:
    """`per_s` as it is. Raises `NothingMeasured` where it is 0 or not a number."""
    if not per_s > 0:
        raise NothingMeasured(f"{what}: nothing was measured in the window; measure longer, or ask for more")
    return per_s


def tables(numbers: Numbers) -> dict[str, Numbers]:
    """The entries that are tables themselves, such as one for each format."""
    return {name: found for name, found in numbers.items() if isinstance(found, dict)}


def write_result(
    name: str, numbers: dict[str, object], *, bars: Judged, command: str, folder: Path = RESULTS
) -> Result:
    """Write `results/{name}.json` and print its numbers and bars. Raises `ValueError` if there are no bars.

    `bars` are computed from `numbers` by the benchmark's own function, never written by hand.
    """
    found, reason = split_judged(bars)
    result = Result(
        command=command,
        commit=_commit(),
        date=date.today().isoformat(),
        machine=facts(),
        bars=found,
        no_bars=reason,
        numbers=numbers,
    )
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(encoded(result), encoding="utf-8")
    print(json.dumps(numbers, indent=2))
    for bar in result.bars:
        verdict = "holds" if bar.holds else "MISSED"
        print(f"{verdict:7} {bar.name}: {bar.value:.4g} {bar.unit} ({bar.direction} {bar.bar:g})")
    return result


def split_judged(judged: Judged) -> tuple[tuple[Bar, ...], str]:
    """Fields `bars` and `no_bars` of a result."""
    return ((), judged.reason) if isinstance(judged, NoBars) else (tuple(judged), "")


def encoded(result: Result) -> str:
    """The text of a result file."""
    return json.dumps(msgspec.to_builtins(result), indent=2) + "\n"


def facts() -> dict[str, str]:
    """Facts that a reader needs to judge a number."""
    versions = {name: _version(name) for name in ("onnxruntime", "numpy", "litestar", "uvicorn")}
    return {
        "hardware": machine_facts(),
        "processor": _processor(),
        "load_before": f"{_LOAD_BEFORE:.2f}",
        "system": platform.platform(),
        "python": sys.version.split()[0],
        **versions,
    }


def _judge(name: str, value: float, bar: float, direction: Direction, unit: str) -> Bar:
    return Bar(name=name, value=value, bar=bar, direction=direction, holds=_holds(value, bar, direction), unit=unit)


def _holds(value: float, bar: float, direction: Direction) -> bool:
    return value >= bar if direction == "at least" else value <= bar


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    """The commit of this tree; with ` and changes` where files other than results differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!benchmarks/README.md")
    return head + " and changes" * bool(changed) if head else "unknown"


def _git(*arguments: str) -> str:
    """Output of git; empty without git or a repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
