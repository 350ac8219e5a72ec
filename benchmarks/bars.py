"""Every benchmark with its committed results, and every bar that they miss, as `benchmarks/README.md`.

python -m benchmarks.bars [--check]

Judges the committed numbers again, writes the bars into the results where they differ (numbers are not changed),
and writes the page. `--check` writes nothing; it fails where the page or the bars of a result are not up to date.
A missed bar needs its reason in `MISSES`, and a bar that is met must have none there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks import (
    adapters,
    cuda,
    first_day,
    formats,
    kills,
    layouts,
    llama_cpp,
    overhead,
    perplexity,
    proxy,
    runners,
    scheduler,
    start,
    steps,
    structure,
    tenancy,
)
from benchmarks.batching import __main__ as batching
from benchmarks.record import RESULTS, Bar, Judged, Numbers, Result, encoded, split_judged

PAGE = Path(__file__).parent / "README.md"


class Benchmark(Protocol):
    """A module that measures; run by `python -m`."""

    @property
    def __name__(self) -> str: ...
    def bars(self, numbers: Numbers) -> Judged: ...


BENCHMARKS: tuple[Benchmark, ...] = (
    first_day,
    start,
    overhead,
    proxy,
    tenancy,
    kills,
    batching,
    scheduler,
    structure,
    layouts,
    runners,
    formats,
    perplexity,
    llama_cpp,
    steps,
    adapters,
    cuda,
)

Misses = Mapping[str, Mapping[str, str]]
"""Result → name of a missed bar → why, and what would close it."""

_ADAPTERS = (
    "Adapters are read in float32: eight of rank 16 on every linear weigh about as much as the Q4_0 base, and their "
    "products are operators of their own. Half precision would halve what is read; products inside the linears would "
    "save steps between operators. Neither was tried."
)
_WAKING = (
    "1.9 % and 1.8 ms on the first machine; on this one the code of that time, measured in turns with this, misses as "
    "well. Waking a process seems to cost more here: fewer wake-ups a request and a token would close it."
)
_STOCK = (
    "Within the noise of the bar; above it in a run that was not recorded. Only machines without the kernels compute "
    "like this: with them it is 2.57 times at 4 streams and 3.42 on the prompt."
)
_START = (
    "Importing Litestar and SQLAlchemy is most of what is left on the gateway's way to ready, and the engine's start "
    "runs beside it on the same two cores. A store without SQLAlchemy's ORM, which its asyncio extension imports, "
    "would close it."
)
_CHAT_FILES = (
    "Of 59 files 46 are left, five of them background tasks that wake within the window. The others hold one idea each "
    "in 80 to 300 lines; fewer would mean files that hold several."
)
MISSES: Misses = {
    "adapters": {
        "Q4_0: adapters, one for all over none": _ADAPTERS,
        "Q4_0: adapters, four over one for all": _ADAPTERS,
        "Q4_0: adapters, eight over none": _ADAPTERS,
        "Q8_0: adapters, one for all over none": _ADAPTERS,
        "Q8_0: adapters, four over one for all": _ADAPTERS,
        "Q8_0: adapters, eight over none": _ADAPTERS,
    },
    "batching": {
        "fairness: throughput over first come": (
            "Within the noise of five windows of 8 s: 1.009 in `batching_fairness.json`. "
            "Longer windows would narrow it."
        ),
    },
    "llama_cpp": {
        "Q8_0, MatMulNBits: decoding over llama.cpp, streams: 4": _STOCK,
        "Q8_0, MatMulNBits: prompt of 512 tokens over llama.cpp": _STOCK,
    },
    "overhead": {
        "gateway's share of an answer of 64 tokens": _WAKING,
        "added to a one-token request, p50": _WAKING,
    },
    "runners": {
        "onnx: 1 at once over transformers at one": (
            "Both read float32 weights at the speed of the memory. Only fewer bytes would close it, "
            "such as weights in half precision."
        ),
    },
    "structure": {"files of a streamed chat in the gateway": _CHAT_FILES},
    "start": {
        "serve to ready: over the other": _START,
        "serve to ready, second start: over the other": _START,
    },
}

_INTRODUCTION = """\
# Benchmarks
<!-- Written by `python -m benchmarks.bars`; change that, or a result, and run it again. -->
Each benchmark prints its numbers and writes them to [results](results), with its command, the commit, the machine and
the bars: limits that the numbers must reach or not pass. A bar's number stands in the benchmark's own file; what holds
is computed from the numbers of the same run. `python -m benchmarks.bars` writes this page.
"""


class NotJudged(Exception):
    """A result of no known benchmark, or a missed bar without a reason; the message says what to add."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    is_check = parser.parse_args().check
    try:
        problems = (check if is_check else refresh)(RESULTS, PAGE, MISSES)
    except (NotJudged, ValueError) as error:
        problems = [str(error)]
    if problems:
        sys.exit("\n".join(problems))


def refresh(folder: Path, page: Path, misses: Misses) -> list[str]:
    """Write bars and page where they are not up to date; no problem is left then. Raises `NotJudged`."""
    results = {path.stem: judged_anew(path) for path in _files(folder)}
    text = page_text(results, misses)
    for path in _files(folder):
        _write(path, encoded(results[path.stem]))
    _write(page, text)
    return []


def check(folder: Path, page: Path, misses: Misses) -> list[str]:
    """List what is not up to date, one sentence each. Raises `NotJudged`."""
    results = {path.stem: judged_anew(path) for path in _files(folder)}
    stale = [path for path in _files(folder) if path.read_text(encoding="utf-8") != encoded(results[path.stem])]
    problems = [f"{path.name}: its bars are not those of its numbers; run python -m benchmarks.bars" for path in stale]
    if not page.exists() or page.read_text(encoding="utf-8") != page_text(results, misses):
        problems.append(f"{page.name} is not what the results say; run python -m benchmarks.bars")
    return problems


def judged_anew(path: Path) -> Result:
    """A result with the bars that its benchmark has today. Raises `NotJudged`, and `ValueError` for a damaged file."""
    recorded = json.loads(path.read_text(encoding="utf-8"))
    benchmark = _benchmark(path.stem, recorded["command"])
    recorded["bars"], recorded["no_bars"] = split_judged(benchmark.bars(recorded["numbers"]))
    return msgspec.convert(recorded, Result)


def page_text(results: Mapping[str, Result], misses: Misses) -> str:
    """The page. Raises `NotJudged` where a missed bar has no reason, or a reason no missed bar."""
    _check_reasons(results, misses)
    rows = [row for benchmark in BENCHMARKS for row in _rows(benchmark, results)]
    missed = _missed_rows(results, misses)
    held = sum(bar.holds for result in results.values() for bar in result.bars)
    return "\n".join(
        [
            _INTRODUCTION,
            _row("what", "command", "result", "measured", "held", "missed"),
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"## Missed: {len(missed)} of {held + len(missed)} bars",
            _row("result", "bar", "measured", "wanted", "by", "why, and what would close it"),
            "|---|---|---|---|---|---|",
            *missed,
            "",
        ]
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


def _command(benchmark: Benchmark) -> str:
    return f"python -m {benchmark.__name__.removesuffix('.__main__')}"


def _benchmark(name: str, command: str) -> Benchmark:
    for benchmark in BENCHMARKS:
        if f"{command} ".startswith(f"{_command(benchmark)} "):
            return benchmark
    raise NotJudged(f"{name}: no benchmark of benchmarks/bars.py has the command {command!r}; add it to BENCHMARKS")


def _check_reasons(results: Mapping[str, Result], misses: Misses) -> None:
    missed = {(name, bar.name) for name, result in results.items() for bar in result.bars if bar.is_missed}
    given = {(name, bar) for name, reasons in misses.items() for bar, reason in reasons.items() if reason}
    for name, bar in sorted(missed - given):
        raise NotJudged(f"{name}: '{bar}' is missed; say in MISSES of benchmarks/bars.py why, and what would close it")
    for name, bar in sorted(given - missed):
        raise NotJudged(f"{name}: '{bar}' is not missed; remove it from MISSES of benchmarks/bars.py")


def _rows(benchmark: Benchmark, results: Mapping[str, Result]) -> list[str]:
    """A row for each result; one that says so if there is none."""
    what = (benchmark.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    own = {name: result for name, result in results.items() if _benchmark(name, result.command) is benchmark}
    if not own:
        return [_row(what, f"`{_command(benchmark)}`", "none yet", "", "", "")]
    return [
        _row(what, f"`{result.command}`", f"[{name}](results/{name}.json)", _measured(result), *_counts(result))
        for name, result in own.items()
    ]


def _missed_rows(results: Mapping[str, Result], misses: Misses) -> list[str]:
    """A row for each missed bar; a reason that several have in a row stands once."""
    rows, last = [], ""
    for name, result in results.items():
        for bar in (bar for bar in result.bars if bar.is_missed):
            reason = misses[name][bar.name]
            wanted = f"{bar.direction} {_amount(bar.bar, bar)}"
            why = reason if reason != last else "as above"
            rows.append(_row(f"`{name}`", bar.name, _amount(bar.value, bar), wanted, _by(bar), why))
            last = reason
    return rows


def _measured(result: Result) -> str:
    """Day, machine and commit; results from before the processor was recorded do without it."""
    machine = [result.machine[key] for key in ("processor", "hardware") if key in result.machine]
    return ", ".join([result.date, *machine, f"`{result.commit}`"])


def _counts(result: Result) -> tuple[str, str]:
    """Bars held and missed; the reason where there are none."""
    if result.no_bars:
        return f"no bars: {result.no_bars}", ""
    missed = sum(bar.is_missed for bar in result.bars)
    return str(len(result.bars) - missed), f"**{missed}**" if missed else "0"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _amount(value: float, bar: Bar) -> str:
    return f"{value:.4g} {bar.unit}".rstrip()


def _by(bar: Bar) -> str:
    """Distance of a value from its bar, as a part of the bar unless that is 0."""
    distance = abs(bar.value - bar.bar)
    amount = f"{100 * distance / bar.bar:.1f} %" if bar.bar else f"{distance:.4g}"
    return f"{amount} {'short' if bar.direction == 'at least' else 'over'}"


if __name__ == "__main__":
    main()
