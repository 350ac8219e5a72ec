"""The kit is worth what it catches: runners that break the contract in one point each, and an honest one."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.testing.kit import CASES, Case, ConformanceError, CreateRunner, Samples, Tolerances, run_case
from backends.testing.kit.suite import RunnerSuite
from tests.contract import liars_adapters, liars_kv, liars_life, liars_steps
from tests.contract.replay import ReplayRunner
from tests.contract.variants import Blank, LargeBlocks, Modest

GROWTH = "growth"
LIES = (*liars_kv.LIES, *liars_steps.LIES, *liars_life.LIES, *liars_adapters.LIES)


@pytest.mark.parametrize("kind", [ReplayRunner, Modest, LargeBlocks])
class TestHonest(RunnerSuite):
    """The runner that the liars are made from passes everything, and so do variants that declare less."""

    @pytest.fixture
    def create_runner(self, kind: type[ReplayRunner]) -> CreateRunner:
        return lambda *, exact: kind()

    @pytest.mark.parametrize("case", [case for case in CASES if case.name != GROWTH], ids=lambda case: case.name)
    def test_contract(
        self, case: Case, create_runner: CreateRunner, tolerances: Tolerances, kit_directory: Path
    ) -> None:
        """Everything but the 2,000 steps of `growth`, which would take minutes and show nothing of the check."""
        super().test_contract(case, create_runner, tolerances, kit_directory)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return Samples(tmp_path_factory.mktemp("liars"))


def test_growth_is_not_found_where_there_is_none(samples: Samples) -> None:
    """A runner that is `Leaks` without the leak passes the check that catches `Leaks`."""
    run_case(case(GROWTH), lambda *, exact: Blank(), samples, tolerances=Tolerances())


@pytest.mark.parametrize(("liar", "name"), LIES, ids=[f"{liar.__name__}-{name}" for liar, name in LIES])
def test_a_lie_is_caught(samples: Samples, liar: type[ReplayRunner], name: str) -> None:
    """Each lie is caught by its own check, with a message that quotes the contract."""
    with pytest.raises(ConformanceError, match=r"^expected .* found .* The contract: “"):
        run_case(case(name), lambda *, exact: liar(), samples, tolerances=Tolerances())


def case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)
