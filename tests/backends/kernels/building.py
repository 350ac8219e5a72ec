"""Compiling the kernels for tests: once for all test processes, and kept until the sources or the compiler change."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.kernels.library import LEVELS

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "backends/kernels/source"
KEPT = ROOT / "build/tests"
NO_COMPILER = (
    "the CPU kernels were not built: install a C++17 compiler (apt-get install g++, or xcode-select --install) "
    "and run `make` again"
)
"""The only reason why a test of the kernels is skipped."""


def require_compiler() -> str:
    """The C++ compiler of this machine; a machine without one skips, for the reason `NO_COMPILER`."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip(NO_COMPILER)
    return compiler


def all_levels() -> Path:
    """The library with every level of this processor's family, by `setup.py` as wheels have it, without a warning."""
    flags = f"{sysconfig.get_config_var('CFLAGS') or ''} -Wall -Wextra -Werror"  # Python's own, which this replaces
    environment = os.environ | {"HOSTELRY_KERNEL_LEVELS": "all", "CFLAGS": flags, "CXXFLAGS": flags}

    def make(folder: Path) -> Path:
        command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={folder}", f"--build-temp={folder}"]
        printed = _run(command, environment)
        built = list(folder.rglob("libhostelry_kernels.*"))
        assert built, printed
        return built[0]

    return kept("libkernels.so", [SOURCE, ROOT / "setup.py"], flags, make)


def build(target: Path, sources: list[Path], *flags: str, levels: Collection[str] = LEVELS) -> Path:
    """Compile and link `target` of `sources`, of the levels among them only `levels`. A warning fails."""
    common = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra"]
    common += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # gcc 12 says both of its own immintrin.h
    command = [require_compiler(), *common, *flags, "-I", str(SOURCE)]

    def quietly(*arguments: str) -> None:
        printed = _run([*command, *arguments])
        assert "warning" not in printed, printed

    def compile_one(source: Path) -> str:
        compiled = f"{target}.{source.stem}.o"
        is_left_out = source.stem.startswith("level_") and source.stem.removeprefix("level_") not in levels
        quietly(*(["-DHOSTELRY_LEFT_OUT"] if is_left_out else []), "-c", str(source), "-o", compiled)
        return compiled

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    quietly(*objects, "-o", str(target))
    return target


def kept(name: str, sources: list[Path], flags: str, make: Callable[[Path], Path]) -> Path:
    """The file that `make` leaves in the folder it is given; made by one process, while others wait for it.

    `sources` are files and folders. What was made from other sources, flags or by another compiler is not taken.
    """
    target = KEPT / f"{_digest(sources, flags)}-{name}"
    KEPT.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=KEPT) as folder:
                make(Path(folder)).replace(target)
    return target


def _digest(sources: list[Path], flags: str) -> str:
    version = _run([require_compiler(), "--version"])
    found = hashlib.sha256(f"{version}\n{flags}\n{os.environ.get('CXX')}".encode())
    for source in sources:
        for file in sorted(source.iterdir()) if source.is_dir() else [source]:
            found.update(f"\n{file.name}\n".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Output of a command; a failure fails the calling test."""
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
