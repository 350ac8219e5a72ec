"""What holds for all tests.

A skip is allowed by `tests/allowed_skips.py`, or the run fails and says so. Hypothesis gives an example all the time
that it takes, and NumPy has one thread in the process of the tests.
"""

from __future__ import annotations

import importlib
import os

import pytest
from hypothesis import settings

from tests.allowed_skips import is_allowed

# Otherwise an example that takes more than 200 ms fails, which says more about the machine than about the code.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

_refused: dict[str, list[str]] = {}
"""Reason → tests that were skipped for it and must not be."""


def _import_numpy_with_one_thread() -> None:
    """It reads the variable when it is imported; what tests start does not find it, and chooses for itself.

    References are computed in every worker at once: the threads of one product, which wait for one another, took four
    times the processor time of one thread.
    """
    own = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = own or "1"
    importlib.import_module("numpy")
    if own is None:
        del os.environ["OPENBLAS_NUM_THREADS"]


_import_numpy_with_one_thread()


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
