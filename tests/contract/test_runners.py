"""Every runner that is installed here fulfils the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.kernels.library import SWITCH_VARIABLE
from backends.registry import create_runner as create_by_name
from backends.registry import missing_packages, runner_names
from backends.testing.kit import CASES, Case, CreateRunner, Tolerances
from backends.testing.kit.suite import RunnerSuite

SLOT_CASES = [case for case in CASES if case.layout != "paged"]
RUNNERS = tuple(name for name in runner_names() if name != "fake")
"""The fake computes no model: there is nothing to compare."""


@pytest.mark.parametrize("name", RUNNERS)
class TestRunner(RunnerSuite):
    """Contract of the runners, on one thread, as the kit is meant to run in parallel with other tests."""

    @pytest.fixture
    def create_runner(self, name: str) -> CreateRunner:
        return installed(name)


class TestWithoutKernels(RunnerSuite):
    """The onnx runner with onnxruntime's own attention and products, where it has slots alone."""

    @pytest.fixture
    def create_runner(self, monkeypatch: pytest.MonkeyPatch) -> CreateRunner:
        monkeypatch.setenv(SWITCH_VARIABLE, "0")
        return installed("onnx")

    @pytest.mark.parametrize("case", SLOT_CASES, ids=lambda case: case.name)
    def test_contract(
        self, case: Case, create_runner: CreateRunner, tolerances: Tolerances, kit_directory: Path
    ) -> None:
        """Each check of the kit holds."""
        super().test_contract(case, create_runner, tolerances, kit_directory)

    def test_slots_alone(self, create_runner: CreateRunner) -> None:
        """No other layout is there to be checked."""
        assert create_runner(exact=False).capabilities().kv_layouts == ("slot",)


def installed(name: str) -> CreateRunner:
    packages, extra = missing_packages(name)
    if packages:
        pytest.skip(f'runner {name} needs {" and ".join(packages)}: pip install "hostelry[{extra}]"')
    return lambda *, exact: create_by_name(name, threads=1, exact=exact)
