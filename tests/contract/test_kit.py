"""The kit itself: what it quotes, what it imports, how it reports."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import backends.api
from backends.api import Runner
from backends.testing.kit import CASES, CHECKS, run_checks
from backends.testing.kit import contract as quoted
from backends.weights.formats import FORMATS
from tests.contract.replay import ReplayRunner

KIT = Path(inspect.getfile(quoted)).parent


def sentences() -> dict[str, str]:
    return {name: value for name, value in vars(quoted).items() if name.isupper()}


def in_one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", sentences())
def test_what_is_quoted_is_in_the_contract(name: str) -> None:
    """Sentences quoted in failures are in the contract, word for word."""
    assert sentences()[name] in in_one_line(inspect.getsource(backends.api))


def test_every_sentence_is_held_to() -> None:
    """None is quoted for nothing."""
    code = "".join(path.read_text(encoding="utf-8") for path in KIT.rglob("*.py"))

    assert [name for name in sentences() if f"contract.{name}" not in code] == []


@pytest.mark.parametrize("name", [name for name in vars(Runner) if not name.startswith("_")])
def test_every_method_of_a_runner_is_called(name: str) -> None:
    """A method that the contract gains fails here until a check calls it."""
    code = "".join(path.read_text(encoding="utf-8") for path in KIT.rglob("*.py"))

    assert re.search(rf"\.{name}\b", code)


def test_names_are_unique() -> None:
    """Results are told apart by name."""
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_every_format_has_a_check() -> None:
    """Every format has a check, also those that are added later."""
    assert {f"format_{name}" for name in FORMATS} <= {check.name for check in CHECKS}


def test_the_kit_needs_only_the_core() -> None:
    """The kit and a run of it import neither a tensor library nor pytest."""
    code = """
import sys, tempfile
from pathlib import Path
from backends.testing.kit import CASES, run_checks
from tests.contract.replay import ReplayRunner
cases = [case for case in CASES if case.check.name == "prefill"]
results = list(run_checks(lambda *, exact: ReplayRunner(), Path(tempfile.mkdtemp()), cases=cases))
assert [result.outcome for result in results] == ["passed", "passed"], results
absent = {"torch", "transformers", "gguf", "onnxruntime", "onnx", "mlx", "safetensors", "pytest"}
sys.exit(", ".join(sorted(absent & set(sys.modules))) or 0)
"""

    done = subprocess.run(
        [sys.executable, "-c", code], check=False, timeout=60, cwd=Path(__file__).parents[2], capture_output=True
    )

    assert (done.returncode, done.stderr.decode()) == (0, "")


class Falls(ReplayRunner):
    """Raises what no contract knows."""

    def warmup(self) -> None:
        raise ZeroDivisionError("by design")


def test_results_say_how_each_case_ended(tmp_path: Path) -> None:
    """Any exception is a finding, and checks that do not apply state the reason."""
    wanted = {"stats", "lora_undeclared", "order-slot"}
    cases = [case for case in CASES if case.name in wanted]

    results = {result.name: result for result in run_checks(lambda *, exact: Falls(), tmp_path, cases=cases)}

    assert results["stats"].outcome == "failed"
    assert "ZeroDivisionError: by design" in results["stats"].reason
    assert (results["lora_undeclared"].outcome, results["lora_undeclared"].reason) == (
        "skipped",
        "the runner declares LoRA",
    )


def test_a_close_that_raises_fails_the_check(tmp_path: Path) -> None:
    """A close that raises fails the check, even where everything else was right."""

    class Clings(ReplayRunner):
        def close(self) -> None:
            if self.plan is not None:
                raise OSError("in use")
            super().close()

    cases = [case for case in CASES if case.name == "prefill-slot"]

    (result,) = run_checks(lambda *, exact: Clings(), tmp_path, cases=cases)

    assert result.outcome == "failed"
    assert "expected nothing raised by close at the end; found OSError: in use" in result.reason


STRANGER = """
import pytest

from backends.testing.kit import CreateRunner, Tolerances
from backends.testing.kit.suite import RunnerSuite
from tests.contract.replay import ReplayRunner


class TestMine(RunnerSuite):
    @pytest.fixture
    def create_runner(self) -> CreateRunner:
        return lambda *, exact: ReplayRunner()

    @pytest.fixture
    def tolerances(self) -> Tolerances:
        return Tolerances(logits=1e-3)

    @pytest.fixture
    def kit_directory(self, tmp_path):
        return tmp_path


class TestForgotten(RunnerSuite):
    pass
"""


def test_a_stranger_fills_three_fixtures(tmp_path: Path) -> None:
    """A third-party test file anywhere needs three fixtures only; a missing fixture reports what is needed."""
    (tmp_path / "test_mine.py").write_text(STRANGER, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "prefill or format_Q4_0"]

    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        timeout=60,
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )

    output = done.stdout.decode()
    assert re.search(r"2 passed, 1 skipped, .*3 errors", output)
    assert "fill the fixture create_runner" in output
