"""The wheel as a stranger gets it: built, installed into an empty environment, used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.harness.packages import require_index
from tests.backends.kernels.building import require_compiler

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a virtual environment with only the wheel and its quickstart extra."""
    require_index()
    directory = tmp_path_factory.mktemp("install")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", directory, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
    (wheel,) = directory.glob("hostelry-*.whl")
    binaries = directory / "venv" / "bin"
    install: list[str | Path] = [binaries / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*install, "-c", ROOT / "constraints.txt", f"{wheel}[quickstart]"], check=True)
    return binaries


def test_core_with_onnx_has_no_torch(fresh: Path) -> None:
    """The extra `onnx` brings no torch along."""
    result = subprocess.run([fresh / "python", "-c", "import torch"], capture_output=True, text=True, check=False)

    assert result.returncode != 0
    assert "No module named 'torch'" in result.stderr


def test_kernels_are_built_for_this_machine(fresh: Path) -> None:
    """A source install compiles the level that this CPU will use, the reference, and nothing else."""
    require_compiler()
    script = (
        "from backends.kernels.library import *; library = load_library(); "
        "print(library.level == library.best_level, *filter(library.set_level, LEVELS))"
    )
    result = subprocess.run([fresh / "python", "-I", "-c", script], capture_output=True, text=True, check=False)

    is_best, *built = result.stdout.split()
    assert is_best == "True", result.stderr
    assert len(built) == 1 + (built != ["scalar"])
    assert built[-1] == "scalar"


def test_quickstart_streams_paris(fresh: Path, tmp_path: Path) -> None:
    """One command serves the bundled model and streams the answer through the official client."""
    command: list[str | Path] = [
        fresh / "hostelry",
        "quickstart",
        "--once",
        "--port",
        "0",
        "--data-dir",
        tmp_path / "data",
    ]
    environment = {**os.environ, "HOME": str(tmp_path)}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300, check=False
    )

    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    assert "curl http://127.0.0.1:" in result.stderr
    assert len((result.stdout + result.stderr).splitlines()) <= 12  # what happens, the answer, curl, how to go on


def test_doctor_finds_nothing_to_fix(fresh: Path, tmp_path: Path) -> None:
    """`doctor` reports no FAIL on a fresh install."""
    command: list[str | Path] = [
        fresh / "hostelry",
        "doctor",
        "--json",
        "--port",
        "18734",
        "--data-dir",
        tmp_path / "data",
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)

    assert result.returncode in (0, 1), result.stdout
    assert '"FAIL"' not in result.stdout
