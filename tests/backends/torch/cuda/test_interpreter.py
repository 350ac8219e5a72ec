"""The kernels' own tests, under Triton's interpreter, on any machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
HALVES = (("executor",), ("attention", "fused", "dequant_matmul", "benchmark"))
"""Halves of the total run time."""


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter runs already")
@pytest.mark.parametrize("names", HALVES, ids=" ".join)
def test_kernels_are_right_under_the_interpreter(names: tuple[str, ...]) -> None:
    """Kernels are right in a process of their own: Triton decides when it is imported whether it interprets."""
    tests = [str(FOLDER / f"test_{name}.py") for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]

    done = subprocess.run(
        command,
        cwd=FOLDER.parents[3],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
