"""Compiling the kernels for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
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
    command = [compiler, *common, *flags, "-I", str(SOURCE)]

    def compile_one(source: Path) -> str:
        compiled = f"{target}.{source.stem}.o"
        _run([*command, "-c", str(source), "-o", compiled])
        return compiled

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    _run([*command, *objects, "-o", str(target)])
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
