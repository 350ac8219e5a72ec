"""Compiling the kernels for tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import backends.kernels

SOURCE = Path(backends.kernels.__file__).parent / "source"


def build(target: Path, sources: list[Path], *flags: str) -> Path:
    """Compile and link `target`; a machine without a compiler skips."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    common = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra"]
    common += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # gcc 12 says both of its own immintrin.h
    command = [compiler, *common, *flags, "-I", str(SOURCE), *map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return target
