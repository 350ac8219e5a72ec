"""What holds for all tests: a skip is allowed by `tests/allowed_skips.py`, or the run fails and says so."""

from __future__ import annotations

import pytest

from tests.allowed_skips import is_allowed

_refused: dict[str, list[str]] = {}
"""Reason → tests that were skipped for it and must not be."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not is_allowed(reason):
            _refused.setdefault(reason, []).append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _refused and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _refused:
        terminalreporter.section("skips that tests/allowed_skips.py does not allow")
        for reason, tests in sorted(_refused.items()):
            terminalreporter.write_line(f"{len(tests)} × {reason} (first: {tests[0]})", red=True)
