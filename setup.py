"""Builds the CPU kernels beside the package; everything else about it is in pyproject.toml.

They are a shared library that ctypes and ONNX Runtime load, not a Python module, so one wheel serves every Python. An
install goes on without them when there is no compiler, or with HOSTELRY_BUILD_KERNELS=0: then it is slower.

HOSTELRY_KERNEL_LEVELS says which instructions they are compiled for: `native` (the default) the best that this machine
has, `all` for wheels and images that other machines will run, or some of LEVELS, separated by commas.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    UNIX_FLAGS += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # gcc 12 says both of its own immintrin.h
WINDOWS_FLAGS = ["/O2", "/std:c++17"]
LEVELS = ("avx512vnni", "avxvnni", "avx2", "neon")
"""Best first, each a file `level_NAME.cpp`."""
REFERENCE = "scalar"
"""Always built, so that a library that was moved to another CPU runs and can say so. Optimized for size: unrolling it
takes longer than to compile all the rest, for a path that is there to be compared with."""


class BuildKernels(build_ext):
    """A failure is a warning, and leaves nothing behind that looks like a library."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # what lies in build/ may be for other levels; the Makefile knows when to build

    def build_extension(self, ext: Extension) -> None:
        compile_all = self.compiler.compile
        try:
            levels = self._levels(ext)
            self.compiler.compile = lambda sources, **options: compile_together(compile_all, levels, sources, **options)
            super().build_extension(ext)
        except Exception as error:
            self.extensions = [other for other in self.extensions if other is not ext]
            self.warn(
                f"the CPU kernels were not built and the onnx runner will be slower on the CPU: {error}. "
                "Install a C++17 compiler (apt-get install g++) and install again."
            )
        else:
            print(f"CPU kernels built for {', '.join((*levels, REFERENCE))}")

    def _levels(self, ext: Extension) -> list[str]:
        asked = os.environ.get("HOSTELRY_KERNEL_LEVELS") or "native"
        if asked == "all":
            return list(LEVELS)
        if asked == "native":
            return self._best_here(ext)
        levels = asked.split(",")
        if unknown := set(levels) - {*LEVELS, REFERENCE}:
            known = ", ".join(("native", "all", *LEVELS, REFERENCE))
            raise SystemExit(f"HOSTELRY_KERNEL_LEVELS: {', '.join(sorted(unknown))} is unknown; use {known}")
        return [level for level in levels if level in LEVELS]

    def _best_here(self, ext: Extension) -> list[str]:
        """The level that the library will choose on this CPU, by its own code; all where that code cannot run."""
        folder = Path(self.build_temp).absolute()
        flags: dict[str, Any] = {"output_dir": str(folder), "extra_postargs": ext.extra_compile_args}
        objects = self.compiler.compile([str(SOURCE / "cpu.cpp")], **flags)
        library = folder / f"cpu{SUFFIX}"
        self.compiler.link_shared_object(objects, str(library), target_lang="c++")
        try:
            cpu = ctypes.CDLL(str(library))
        except OSError:  # compiled for another processor than this one
            return list(LEVELS)
        return [level for level in LEVELS if cpu.hk_cpu_has(level.encode())][:1]

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + SUFFIX

    def get_export_symbols(self, ext: Extension) -> list[str]:  # noqa: ARG002 (setuptools prescribes it)
        return []  # the sources say what is exported; by default it would be the entry of a Python module


def compile_together(
    compile_all: Callable[..., list[str]], levels: list[str], sources: list[str], **options: Any
) -> list[str]:
    """As many files at a time as there are cores; setuptools would take one after the other."""
    left_out = {f"level_{level}" for level in LEVELS if level not in levels}

    def compile_one(source: str) -> list[str]:
        file, flags = Path(source).stem, options["extra_postargs"]
        if file == f"level_{REFERENCE}":
            flags = ["-Os" if flag == "-O3" else flag for flag in flags]
        macros = [*(options.get("macros") or ()), *([("HOSTELRY_LEFT_OUT", "1")] if file in left_out else ())]
        return compile_all([source], **options | {"extra_postargs": flags, "macros": macros})

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [file for files in pool.map(compile_one, sources) for file in files]


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
