"""The kit as a pytest suite. Subclass it, and fill the first fixture; the other two have defaults:


class TestMyRunner(RunnerSuite):
    @pytest.fixture
    def create_runner(self) -> CreateRunner:
        return lambda *, exact: MyRunner(exact=exact)
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from backends.testing.kit.bench import CreateRunner
from backends.testing.kit.check import Case
from backends.testing.kit.expect import CheckSkipped, Tolerances
from backends.testing.kit.run import CASES, run_case
from backends.testing.kit.samples import Samples


@cache
def samples_in(directory: Path) -> Samples:
    """The models and what was computed with them, shared by all tests of a process."""
    return Samples(directory)


class RunnerSuite:
    """Each check in each KV layout is a test; what the runner does not declare is skipped, with the reason."""

    @pytest.fixture
    def create_runner(self) -> CreateRunner:
        """Makes the runner under test: a callable with the keyword `exact`."""
        raise NotImplementedError("fill the fixture create_runner: it returns a callable that makes your runner")

    @pytest.fixture
    def tolerances(self) -> Tolerances:
        """Tolerances for the distance of logits from the oracle's."""
        return Tolerances()

    @pytest.fixture
    def kit_directory(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Takes the models, a few megabytes; the same for all tests, so that each model is made once."""
        return tmp_path_factory.getbasetemp() / "conformance"

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_contract(
        self, case: Case, create_runner: CreateRunner, tolerances: Tolerances, kit_directory: Path
    ) -> None:
        """Run the check; its claim is `case.check.claim`."""
        try:
            run_case(case, create_runner, samples_in(kit_directory), tolerances=tolerances)
        except CheckSkipped as skipped:
            pytest.skip(str(skipped))
