"""Every runner that is installed here keeps the contract."""

from __future__ import annotations

import pytest

from backends.registry import create_runner as create_by_name
from backends.registry import missing_packages, runner_names
from backends.testing.kit import CreateRunner
from backends.testing.kit.suite import RunnerSuite

RUNNERS = tuple(name for name in runner_names() if name != "fake")
"""The fake computes no model: there is nothing to compare."""


@pytest.mark.parametrize("name", RUNNERS)
class TestRunner(RunnerSuite):
    """With one thread, as the kit is meant to be run beside other tests."""

    @pytest.fixture
    def create_runner(self, name: str) -> CreateRunner:
        packages, extra = missing_packages(name)
        if packages:
            pytest.skip(f'runner {name} needs {" and ".join(packages)}: pip install "hostelry[{extra}]"')
        return lambda *, exact: create_by_name(name, threads=1, exact=exact)
