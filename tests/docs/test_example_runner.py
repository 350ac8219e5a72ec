"""The example runner is what the tutorial says: installable, found by name, true to the contract, served."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "hostelry-numpy-runner"
HOSTELRY = (sys.executable, "-m", "gateway.cli")
SECONDS = 120
KEY = "key-of-the-example"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The variables of a process that finds the installed example. Nothing is fetched."""
    source, target = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("installed")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    subprocess.run([*pip, *offline, "--target", str(target), str(source)], check=True, timeout=SECONDS)
    return {**os.environ, "PYTHONPATH": str(target)}


def hostelry(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [*HOSTELRY, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)


def test_the_example_is_found_by_name(environment: Mapping[str, str]) -> None:
    """An entry point is all that it takes."""
    listed = hostelry("runner", "list", environment=environment)

    assert listed.returncode == 0, listed.stderr
    assert re.search(r"^numpy +available", listed.stdout, re.MULTILINE)


def test_the_example_keeps_the_contract(environment: Mapping[str, str]) -> None:
    """All that it declares is held to, and it declares more than half of the kit."""
    checked = hostelry("runner", "check", "numpy", environment=environment)

    verdict = checked.stdout.splitlines()[-1] if checked.stdout else checked.stderr
    counts = re.match(r"numpy fulfils the contract: (\d+) passed, 0 failed, (\d+) skipped", verdict)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert counts is not None, verdict
    assert int(counts[1]) > int(counts[2])


def test_the_example_serves(environment: Mapping[str, str], tmp_path: Path) -> None:
    """The demo model answers over HTTP, and the start says which runner it is on."""
    options = ("--backend", "numpy", "--port", "0", "--api-key", KEY, "--data-dir", str(tmp_path))
    process = subprocess.Popen(
        [*HOSTELRY, "serve", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    try:
        address, log = _ready(process)
        answer = httpx.post(
            f"{address}/v1/chat/completions",
            headers={"authorization": f"Bearer {KEY}"},
            json={
                "model": "hostelry-demo",
                "temperature": 0,
                "messages": [{"role": "user", "content": "What is the capital of France?"}],
            },
            timeout=SECONDS,
        )
    finally:
        process.terminate()
        process.communicate()
        watchdog.cancel()

    assert "on numpy" in log
    assert answer.json()["choices"][0]["message"]["content"] == "The capital of France is Paris."


def _ready(process: subprocess.Popen[str]) -> tuple[str, str]:
    """(Address, what was logged until it answered); fails with the log if the process ends before."""
    assert process.stdout is not None
    log = ""
    for line in process.stdout:
        log += line
        if line.startswith("ready http"):
            return line.split()[1], log
    pytest.fail(f"the server ended before it was ready:\n{log}")
