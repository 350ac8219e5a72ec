from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from backends.api import Runner
from backends.registry import RunnerUnavailable
from backends.testing.kit import CASES, run_checks
from gateway.cli import main
from gateway.commands import runner
from gateway.commands.runner import KitReport, KnownRunner
from tests.contract.liars_steps import LastRowOnly
from tests.contract.replay import ReplayRunner

FEW = tuple(case for case in CASES if case.check.name in ("prefill", "verify", "format_Q4_0"))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["runner", *arguments])


@pytest.fixture(params=[ReplayRunner, LastRowOnly])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[ReplayRunner]:
    """The registry makes an honest runner or a liar, and the kit has few checks."""
    kind: type[ReplayRunner] = request.param
    monkeypatch.setattr(runner, "create_runner", lambda name, **options: kind())
    monkeypatch.setattr(runner, "run_checks", lambda create, directory: run_checks(create, directory, cases=FEW))
    return kind


def test_the_report_is_for_people(made: type[ReplayRunner]) -> None:
    """Every check has a line; the last one is the verdict, and so is the exit status."""
    result = invoke("check", "mine", "--threads", "1")

    is_honest = made is ReplayRunner
    assert result.exit_code == (0 if is_honest else 1)
    assert all(case.name in result.output for case in FEW)
    assert "the runner does not declare Q4_0" in " ".join(result.output.split())
    verdict = (
        "mine fulfils the contract: 4 passed, 0 failed" if is_honest else "mine violates the contract: 2 passed, 2"
    )
    assert verdict in result.output


def test_the_report_is_for_programs(made: type[ReplayRunner]) -> None:
    """Standard output is JSON and nothing else."""
    result = invoke("check", "mine", "--json")

    report = msgspec.json.decode(result.stdout, type=KitReport)
    failed = [item.name for item in report.results if item.outcome == "failed"]
    assert failed == ([] if made is ReplayRunner else ["verify-slot", "verify-paged"])
    assert (report.runner, report.passed + report.failed, report.skipped) == ("mine", 4, 1)
    assert result.exit_code == (1 if failed else 0)


def test_an_unknown_runner_is_named(tmp_path: Path) -> None:
    """An unknown runner is refused with the list of known ones and exit status 2."""
    result = invoke("check", "nonesuch")

    assert result.exit_code == 2
    assert "there is no runner 'nonesuch'; known are" in result.stderr


def test_an_absent_package_comes_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that installs it."""

    def absent(name: str, **options: object) -> Runner:
        raise RunnerUnavailable(f'runner {name} needs mlx: pip install "hostelry[mlx]"')

    monkeypatch.setattr(runner, "create_runner", absent)

    result = invoke("check", "mlx")

    assert result.exit_code == 2
    assert 'pip install "hostelry[mlx]"' in result.stderr


def test_a_device_that_a_runner_has_not_is_refused() -> None:
    """A device that the runner lacks is refused ahead of all checks."""
    result = invoke("check", "fake", "--device", "abacus")

    assert result.exit_code == 2
    assert "abacus" in result.stderr or "no choice of devices" in result.stderr


def test_the_list_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list states what is missing and how to get it."""
    monkeypatch.setattr(runner, "missing_packages", lambda name: (("torch",), "torch") if name == "torch" else ((), ""))

    shown = invoke("list")
    known = msgspec.json.decode(invoke("list", "--json").stdout, type=list[KnownRunner])

    assert 'absent: pip install "hostelry[torch]"' in shown.output
    assert [item.name for item in known if not item.available] == ["torch"]
    assert "fake" in [item.name for item in known]
