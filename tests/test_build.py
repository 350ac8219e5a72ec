"""Installing with and without a compiler: the kernels are built if they can be, and never stand in the way."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from backends.kernels.library import KernelsUnavailable, Library, load_library
from tests.backends.kernels.building import require_compiler

ROOT = Path(__file__).parents[1]
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
NO_COMPILER = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}


def build(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done


def build_library(folder: Path, **environment: str) -> tuple[list[Path], str]:
    """(The library, if one was built; what was printed)."""
    done = build(ROOT, "build_ext", f"--build-lib={folder / 'lib'}", f"--build-temp={folder / 'temp'}", **environment)
    return list(folder.rglob(f"libhostelry_kernels{SUFFIX}")), done.stderr


def build_wheel(folder: Path, **environment: str) -> Path:
    """Build a wheel of the few files that matter here, in a folder of their own."""
    (folder / "backends").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "backends/kernels", folder / "backends/kernels", ignore=shutil.ignore_patterns("lib*"))
    for package, text in (("backends", ""), ("gateway", '__version__ = "1.2.3"\n')):
        (folder / package).mkdir(exist_ok=True)
        (folder / package / "__init__.py").write_text(text)
    build(folder, "bdist_wheel", **environment)
    (wheel,) = (folder / "dist").iterdir()
    return wheel


@pytest.fixture(scope="module")
def scalar_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with the reference only, which is in all of them: what is built on a machine without vector units."""
    require_compiler()
    return build_wheel(tmp_path_factory.mktemp("scalar"), HOSTELRY_KERNEL_LEVELS="scalar")


def library_of(wheel: Path, folder: Path) -> Path:
    return Path(zipfile.ZipFile(wheel).extract(f"backends/kernels/libhostelry_kernels{SUFFIX}", folder))


def test_a_compiler_makes_a_library(scalar_wheel: Path, tmp_path: Path) -> None:
    """One for ctypes and onnxruntime, not a Python module, and a wheel with it is for every Python of the platform."""
    wheel = scalar_wheel

    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith("hostelry-1.2.3-py3-none-")
    assert not wheel.name.endswith("-any.whl")
    assert f"backends/kernels/libhostelry_kernels{SUFFIX}" in names
    assert not [name for name in names if name.endswith((".cpp", ".h"))]
    library = ctypes.CDLL(str(library_of(wheel, tmp_path)))
    assert library.hk_abi_version() == 5
    assert library.RegisterCustomOps
    assert not hasattr(library, "PyInit_libhostelry_kernels")


def test_a_library_of_another_cpu_says_so(scalar_wheel: Path, tmp_path: Path) -> None:
    """A library of another CPU runs on the reference; onnxruntime and torch themselves are faster, so it is refused
    with the remedy.
    """
    moved = library_of(scalar_wheel, tmp_path)
    here = Library(moved).best_level

    if here != "scalar":
        with pytest.raises(KernelsUnavailable, match=f"another CPU and this one has {here}; install hostelry again"):
            load_library(moved)
    assert Library(moved).level == "scalar"


def test_unknown_levels_are_refused(tmp_path: Path) -> None:
    """Unknown levels are refused with the names that exist, ahead of any compilation."""
    command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path}"]
    environment = os.environ | {"HOSTELRY_KERNEL_LEVELS": "sse9"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "HOSTELRY_KERNEL_LEVELS: sse9 is unknown; use native, all, avx512vnni," in done.stderr
    assert not list(tmp_path.iterdir())


def test_no_compiler_is_no_obstacle(tmp_path: Path) -> None:
    """The build goes on, and says once what is missing and how to get it."""
    built, printed = build_library(tmp_path, **NO_COMPILER)

    assert not built
    assert printed.count("the CPU kernels were not built") == 1
    assert "Install a C++17 compiler" in printed


def test_a_wheel_without_the_library_is_for_any_platform(tmp_path: Path) -> None:
    """No compiler, no platform."""
    assert build_wheel(tmp_path, **NO_COMPILER).name == "hostelry-1.2.3-py3-none-any.whl"


def test_building_can_be_switched_off(tmp_path: Path) -> None:
    """Building can be switched off without a message, since it was asked for."""
    built, printed = build_library(tmp_path, HOSTELRY_BUILD_KERNELS="0")

    assert not built
    assert "kernels" not in printed
