"""The committed results, their bars and the page that lists what is missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bars import BENCHMARKS, MISSES, PAGE, NotJudged, check, judged_anew, refresh
from benchmarks.closed_loop import Asked
from benchmarks.kills import bars as bars_of_kills
from benchmarks.record import RESULTS, NothingMeasured

COMMAND = "python -m benchmarks.overhead --rounds 9"
NUMBERS = {"tokens": 64, "overhead_percent": 4.5, "added_ms_p50_a_request": 1.5}
REASONS = {"overhead": {"gateway's share of an answer of 64 tokens": "more processes"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results with one that has no bars yet, and misses one of two."""
    recorded = {"command": COMMAND, "commit": "abc", "date": "2026-12-01", "machine": {"hardware": "two cores"}}
    (tmp_path / "overhead.json").write_text(json.dumps(recorded | {"numbers": NUMBERS}))
    return tmp_path


def test_the_page_is_up_to_date() -> None:
    """Every committed result has the bars of its numbers, every missed bar a reason, and the page lists them."""
    assert check(RESULTS, PAGE, MISSES) == []


def test_all_benchmarks_are_listed() -> None:
    """Every benchmark that writes results has a row on the page."""
    root = PAGE.parents[1]
    writers = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in PAGE.parent.rglob("*.py")
        if "write_result(" in path.read_text(encoding="utf-8") and path.name != "record.py"
    }

    assert writers == {benchmark.__name__ for benchmark in BENCHMARKS}


def test_misses_are_listed(folder: Path) -> None:
    """Misses are listed with value, bar, distance and reason; bars that hold are only counted."""
    refresh(folder, folder / "page.md", REASONS)

    page = (folder / "page.md").read_text()
    assert "Missed: 1 of 2 bars" in page
    assert "| 4.5 % | at most 3 % | 50.0 % over | more processes |" in page
    assert "added to a one-token request" not in page
    assert check(folder, folder / "page.md", REASONS) == []


def test_numbers_are_left_as_they_are(folder: Path) -> None:
    """Only bars are written into a result."""
    refresh(folder, folder / "page.md", REASONS)

    recorded = json.loads((folder / "overhead.json").read_text())
    assert recorded["numbers"] == NUMBERS
    assert [bar["holds"] for bar in recorded["bars"]] == [False, True]


def test_a_result_without_bars_is_not_up_to_date(folder: Path) -> None:
    """Nor is a page that was not written."""
    problems = check(folder, folder / "page.md", REASONS)

    assert [problem.partition(":")[0].partition(" ")[0] for problem in problems] == ["overhead.json", "page.md"]


def test_a_miss_needs_its_reason(folder: Path) -> None:
    """A miss without its reason is refused with the place to write one, and nothing is written."""
    before = (folder / "overhead.json").read_text()

    with pytest.raises(NotJudged, match="'gateway's share of an answer of 64 tokens' is missed"):
        refresh(folder, folder / "page.md", {})

    assert (folder / "overhead.json").read_text() == before
    assert not (folder / "page.md").exists()


def test_a_reason_needs_its_miss(folder: Path) -> None:
    """One that is left over when a bar holds again is refused."""
    reasons = {"overhead": REASONS["overhead"] | {"added to a one-token request, p50": "left over"}}

    with pytest.raises(NotJudged, match="'added to a one-token request, p50' is not missed"):
        refresh(folder, folder / "page.md", reasons)


def test_results_of_unknown_commands(folder: Path) -> None:
    """A benchmark that is not listed cannot judge its numbers."""
    path = folder / "overhead.json"
    path.write_text(path.read_text().replace("benchmarks.overhead", "benchmarks.over"))

    with pytest.raises(NotJudged, match="add it to BENCHMARKS"):
        judged_anew(path)


def test_kills_without_answers_prove_nothing() -> None:
    """None lost of none answered is an error, not a bar that holds."""
    with pytest.raises(NothingMeasured, match="no answer arrived"):
        bars_of_kills({"answered": 0, "kills": 200, "lost": 0, "doubled": 0, "differing": 0})


def test_a_loop_without_answers_has_no_rate() -> None:
    """A loop without answers is refused when it is measured."""
    with pytest.raises(NothingMeasured, match="no answer arrived within the window"):
        Asked(latencies_s=(), wall_s=2.0, client_cpu=0.1)
