"""Packages that `pip install "hostelry[extra]"` would install, for every extra; nothing is downloaded but metadata."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from e2e.harness.packages import require_index

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
WINDOWS = ("onnx-directml",)
"""Extras that are for Windows only, and are resolved as if on it."""
LIMIT_S = 240.0


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A package index that answers, and a pip that resolves from metadata alone."""
    if Version(version("pip")) < Version("23.3"):
        pytest.fail(f"pip {version('pip')} downloads whole packages to resolve them: pip install --upgrade pip")
    require_index()


@pytest.mark.parametrize("system", [sys.platform, "win32"])
def test_every_extra_resolves(system: str, index: None, tmp_path: Path) -> None:
    """All that an extra asks for exists, in versions that go together with what the gateway itself needs.

    Versions that suit all extras at once suit each of them; only where there are none is each resolved alone.
    """
    flags = ("--platform", "win_amd64", "--target", str(tmp_path)) if system == "win32" else ()
    extras = [extra for extra in EXTRAS if (extra in WINDOWS) == (system == "win32")]

    refused = {}
    if resolve(requirements(extras, system), *flags):
        refusals = {extra: resolve(requirements([extra], system), *flags) for extra in extras}
        refused = {extra: refusal for extra, refusal in refusals.items() if refusal}

    assert refused == {}


def requirements(extras: Sequence[str], system: str) -> Iterator[str]:
    """All of the project with those extras, without those that are for other systems."""
    for line in (*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])):
        wanted = Requirement(line)
        if wanted.name == PROJECT["name"]:
            yield from (line for extra in wanted.extras for line in EXTRAS[extra])
        elif wanted.marker is None or wanted.marker.evaluate({"sys_platform": system}):
            wanted.marker = None
            yield str(wanted)


def resolve(wanted: Iterable[str], *flags: str) -> str:
    """Reason why pip cannot install these into an empty environment; empty if it can."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--dry-run"]
    result = subprocess.run(
        [*pip, "--ignore-installed", "--only-binary", ":all:", "-c", ROOT / "constraints.txt", *flags, *wanted],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    return "" if result.returncode == 0 else "\n".join(errors) or result.stderr
