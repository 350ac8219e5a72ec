"""Bars of benchmark results: computed from the values, and never absent."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest

from benchmarks.record import Bar, Judged, NoBars, NothingMeasured, Result, at_least, at_most, rate, write_result


@pytest.mark.parametrize(("value", "holds"), [(0.89, False), (0.9, True), (0.91, True)])
def test_at_least(value: float, *, holds: bool) -> None:
    """The bar itself is enough, and what lies below misses it."""
    bar = at_least("speed", value, 0.9, unit="×")

    assert bar == Bar(name="speed", value=value, bar=0.9, direction="at least", holds=holds, unit="×")
    assert bar.is_missed != holds


@pytest.mark.parametrize(("value", "holds"), [(1.9, True), (2, True), (2.1, False)])
def test_at_most(value: float, *, holds: bool) -> None:
    """The bar itself is allowed, and what lies above misses it."""
    bar = at_most("added", value, 2)

    assert bar == Bar(name="added", value=value, bar=2, direction="at most", holds=holds)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_are_numbers(value: float) -> None:
    """A window without measurements has no value, and none is recorded."""
    with pytest.raises(ValueError, match="must be finite"):
        at_most("share", value, 3)


def test_holding_is_never_told_by_hand() -> None:
    """A file that says so against its own numbers is refused."""
    told = {"name": "share", "value": 5.29, "bar": 3, "direction": "at most", "holds": True}

    with pytest.raises(msgspec.ValidationError, match=r"share: .* cannot be recorded as holds=True"):
        msgspec.convert(told, Bar)


def test_a_result_carries_everything(tmp_path: Path) -> None:
    """Command, commit, day, machine, bars and numbers, as they are read again."""
    result = write_result("one", {"ms": 1.5}, bars=[at_most("time", 1.5, 2)], command="python -m x", folder=tmp_path)

    recorded = json.loads((tmp_path / "one.json").read_text())
    assert list(recorded) == ["command", "commit", "date", "machine", "bars", "numbers"]
    assert recorded["bars"] == [{"name": "time", "value": 1.5, "bar": 2, "direction": "at most", "holds": True}]
    assert msgspec.convert(recorded, Result) == result


def test_no_bars_with_a_reason(tmp_path: Path) -> None:
    """A benchmark without bars says why."""
    write_result("one", {"ms": 1.5}, bars=NoBars("it only compares"), command="python -m x", folder=tmp_path)

    recorded = json.loads((tmp_path / "one.json").read_text())
    assert (recorded["bars"], recorded["no_bars"]) == ([], "it only compares")


@pytest.mark.parametrize(
    ("bars", "complaint"),
    [
        ([], "needs bars"),
        (NoBars(""), "needs bars"),
        ([at_most("time", 1, 2), at_least("time", 1, 2)], "several bars are named time"),
    ],
    ids=["none", "no reason", "one name twice"],
)
def test_results_without_bars_are_refused(tmp_path: Path, bars: Judged, complaint: str) -> None:
    """Nothing is written."""
    with pytest.raises(ValueError, match=complaint):
        write_result("one", {"ms": 1.5}, bars=bars, command="python -m x", folder=tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("per_s", [0, math.nan])
def test_an_empty_window_is_an_error(per_s: float) -> None:
    """An empty window is an error; it is never recorded as a speed of 0."""
    with pytest.raises(NothingMeasured, match="prompts: nothing was measured"):
        rate(per_s, "prompts")

    assert rate(0.5, "prompts") == 0.5
