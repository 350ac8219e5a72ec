"""Failures of a test run: skips that are not allowed, machines that lack something, timed rows that miss."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.harness import timing
from e2e.harness.timing import Bar, at_least, at_most
from tests import allowed_skips, machine
from tests.backends.kernels.building import NO_COMPILER


@pytest.fixture(autouse=True)
def to_the_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set no slack, whatever slack this run has; made-up rows are neither recorded nor shown."""
    monkeypatch.setattr(timing, "SLACK", 1.0)
    monkeypatch.setattr(timing, "measured_rows", [])
    monkeypatch.setattr(timing, "record", lambda *_, **__: None)


def test_only_listed_skips_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A skip because the machine lacks something is allowed only where the machine's exception was given by name."""
    assert allowed_skips.is_allowed("not verified: runner cuda is not present on this machine")
    assert not allowed_skips.is_allowed("too slow today")
    monkeypatch.setattr(allowed_skips, "WITHOUT", frozenset())
    assert not allowed_skips.is_allowed(NO_COMPILER)

    monkeypatch.setattr(allowed_skips, "WITHOUT", frozenset({"compiler"}))

    assert allowed_skips.is_allowed(NO_COMPILER)
    assert not allowed_skips.is_allowed("not verified on PostgreSQL: it is not installed")


def test_a_machine_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A sentence each with the cure and the way round it; nothing but names of the list may be left out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "find_programs", lambda: None)
    monkeypatch.setattr(machine, "WITHOUT", frozenset())
    assert machine.main() == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("apt-get install" in line and "WITHOUT=" in line for line in lines)

    monkeypatch.setattr(machine, "WITHOUT", frozenset({"compiler", "postgresql"}))
    assert machine.main() == 0
    monkeypatch.setattr(machine, "WITHOUT", frozenset({"patience"}))
    assert machine.main() == 1
    assert "names patience" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bar", "good", "bad"), [(at_least(2.0), (2.0, 2.5), (1.9, 0.0)), (at_most(2.0), (2.0, 0.0), (2.1, 9.0))]
)
def test_a_bar_judges_in_its_direction(bar: Bar, good: tuple[float, ...], bad: tuple[float, ...]) -> None:
    """The limit itself is reached."""
    assert all(map(bar.reached_by, good))
    assert not any(map(bar.reached_by, bad))


def test_the_median_of_the_rounds_counts() -> None:
    """Two bad rounds of five are noise, three are a miss, which names row, value and bar."""
    few, many = iter([1.0, 1.0, 3.0, 3.0, 3.0]), iter([1.0, 1.0, 1.0, 3.0, 3.0])
    timing.hold(lambda: {"row": next(few)}, {"row": at_least(2.0)})

    with pytest.raises(AssertionError, match=r"MISSES\s+1\.000\s+≥ 2\s+row"):
        timing.hold(lambda: {"row": next(many)}, {"row": at_least(2.0)})

    assert [row.value for row in timing.measured_rows] == [3.0, 1.0]


def test_a_shared_machine_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row measured with slack fails if it misses that part of its bar in two measurements, and not in one."""
    monkeypatch.setattr(timing, "SLACK", 0.8)
    once = iter([1.0] * 5 + [1.7] * 5)

    timing.hold(lambda: {"row": next(once)}, {"row": at_least(2.0)})

    with pytest.raises(AssertionError, match="MISSES"):
        timing.hold(lambda: {"row": 1.5}, {"row": at_least(2.0)})
    assert [row.value for row in timing.measured_rows] == [1.0, 1.7, 1.5, 1.5]
