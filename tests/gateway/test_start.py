"""Imports of a start, which take most of its time. No times here: `benchmarks.start` measures them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEVER = {
    "alembic",
    "attr",
    "asyncpg",
    "huggingface_hub",
    "mako",
    "numpy",
    "onnx",
    "onnxruntime",
    "openai",
    "pydantic",
    "pygments",
    "rich.progress",
    "sqlalchemy.dialects.postgresql",
    "torch",
    "transformers",
}
"""A gateway over a local model and a new SQLite store has no use for these, nor for advanced-alchemy."""
HTTP = {"gateway.process.write_coalescing", "litestar.app", "prometheus_client", "sqlalchemy.orm", "uvicorn"}
"""Parts of what answers HTTP. (The names that `import_module` is given are not listed.)"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which advanced-alchemy is not installed: Litestar imports it where it is, and Alembic with it."""
    (tmp_path / "advanced_alchemy.py").write_text("raise ImportError('it is not installed')\n", encoding="utf-8")
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}


def test_a_first_start_imports_what_it_uses(tmp_path: Path, environment: dict[str, str]) -> None:
    """No unused module is imported up to `ready`, with a new store."""
    arguments = ["--port", "0", "--backend", "fake", "--data-dir", str(tmp_path / "data"), "--api-key", "sk-ho-start"]
    with _serving(*arguments, log=tmp_path / "log", environment=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()

    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert line.startswith("ready "), log
    assert _imported(log) >= HTTP
    assert _imported(log) & NEVER == set()


def test_a_missing_model_is_told_without_http(tmp_path: Path, environment: dict[str, str]) -> None:
    """Libraries for HTTP are not all imported when a missing model means that nothing will be served."""
    arguments = ["--port", "0", "--model", str(tmp_path / "none.gguf"), "--data-dir", str(tmp_path / "data")]
    with _serving(*arguments, log=tmp_path / "log", environment=environment) as process:
        status = process.wait(60)

    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert status == 1
    assert "no such file" in log
    assert not _imported(log) >= HTTP
    assert _imported(log) & NEVER == set()


def test_a_wrong_configuration_is_told_at_once(tmp_path: Path, environment: dict[str, str]) -> None:
    """An error in the configuration is reported without importing any library of the server."""
    file = tmp_path / "hostelry.toml"
    file.write_text("[server]\nprot = 8000\n", encoding="utf-8")

    with _serving("--config", str(file), log=tmp_path / "log", environment=environment) as process:
        status = process.wait(60)

    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert status == 2
    assert "unknown key" in log
    assert _imported(log) & (HTTP | NEVER | {"jinja2"}) == set()


def _serving(*arguments: str, log: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """`hostelry serve`, which writes what it imports into `log`."""
    command = [sys.executable, "-X", "importtime", "-m", "gateway.cli", "serve", *arguments]
    with log.open("w", encoding="utf-8") as errors:
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        )


def _imported(log: str) -> set[str]:
    """Modules that were imported, by what `-X importtime` tells."""
    return set(re.findall(r"import time: *\d+ \| *\d+ \| *(\S+)", log))
