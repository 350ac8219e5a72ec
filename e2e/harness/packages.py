"""The package index, for tests that install."""

from __future__ import annotations

import subprocess
import sys

import pytest

NO_INDEX = "not verified: the package index cannot be reached"


def require_index() -> None:
    """Skip, for the reason `NO_INDEX`, where nothing can be installed."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--dry-run"]
    done = subprocess.run(
        [*pip, "--ignore-installed", "--no-deps", "--retries", "0", "pip"],
        capture_output=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        pytest.skip(NO_INDEX)
