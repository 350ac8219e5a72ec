"""Builds the CPU kernels beside the package; everything else about it is in pyproject.toml.

They are a shared library that ctypes and ONNX Runtime load, not a Python module, so one wheel serves every Python. An
install goes on without them when there is no compiler, or with HOSTELRY_BUILD_KERNELS=0: then it is slower.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NAME = "backends.kernels.libhostelry_kernels"
SOURCE = Path("backends/kernels/source")
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
UNIX_FLAGS = ["-O3", "-g0", "-std=c++17", "-fvisibility=hidden", "-ffp-contract=off", "-pthread"]  # -fPIC comes along
if sys.platform == "linux":
    UNIX_FLAGS.append("-Wno-maybe-uninitialized")  # of gcc's own intrinsics
WINDOWS_FLAGS = ["/O2", "/std:c++17"]
REFERENCE = "level_scalar.cpp"
"""Unrolling it takes longer than to compile all the rest, for a path that is there to be compared with."""


def compile_together(compile_all: Callable[..., list[str]], sources: list[str], **options: Any) -> list[str]:
    """As many files at a time as there are cores; setuptools would take one after the other."""

    def compile_one(source: str) -> list[str]:
        flags = ["-Os" if flag == "-O3" and source.endswith(REFERENCE) else flag for flag in options["extra_postargs"]]
        return compile_all([source], **options | {"extra_postargs": flags})

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [file for files in pool.map(compile_one, sources) for file in files]


class BuildKernels(build_ext):
    """A failure is a warning, and leaves nothing behind that looks like a library."""

    def build_extension(self, ext: Extension) -> None:
        self.compiler.compile = partial(compile_together, self.compiler.compile)
        try:
            super().build_extension(ext)
        except Exception as error:
            self.extensions = [other for other in self.extensions if other is not ext]
            self.warn(
                f"the CPU kernels were not built and the onnx runner will be slower on the CPU: {error}. "
                "Install a C++17 compiler and install again."
            )

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + SUFFIX

    def get_export_symbols(self, ext: Extension) -> list[str]:  # noqa: ARG002 (setuptools prescribes it)
        return []  # the sources say what is exported; by default it would be the entry of a Python module


class KernelWheel(bdist_wheel):
    """For a platform, but for every Python; for any platform without the library."""

    def get_tag(self) -> tuple[str, str, str]:
        *_, platform = super().get_tag()
        is_built = any(Path(self.bdist_dir).rglob(f"libhostelry_kernels{SUFFIX}"))
        return "py3", "none", platform if is_built else "any"


kernels = Extension(
    NAME,
    sources=sorted(map(str, SOURCE.glob("*.cpp"))),
    depends=sorted(map(str, SOURCE.glob("*.h"))),
    language="c++",
    extra_compile_args=WINDOWS_FLAGS if sys.platform == "win32" else UNIX_FLAGS,
    extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
)

setup(
    ext_modules=[] if os.environ.get("HOSTELRY_BUILD_KERNELS") == "0" else [kernels],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": KernelWheel},
)
