"""Installs Hostelry from this checkout into a virtual environment, and says what is done and how long it takes.

python install.py FOLDER        (`make quickstart` calls it)

The CPU kernels compile while the dependencies are downloaded and unpacked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent
PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
if not sys.dont_write_bytecode:
    PIP.append("--no-compile")  # a third of pip's time, for modules of which most are never imported
WIDTH = 70


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 (whoever has an older one is told)
        raise SystemExit(
            f"Python {sys.version.split()[0]} is too old; use 3.11 or later: make quickstart PYTHON=python3.11"
        )
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").absolute()
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    with _step(f"1/3 creating {folder.name}"):
        if not _has_pip(python):
            _run([sys.executable, "-m", "venv", folder])
        _run([python, *PIP, *_build_requirements()])
    with ThreadPoolExecutor(1) as pool:
        print("2/3 compiling the CPU kernels for this machine, at the same time", flush=True)
        kernels = pool.submit(_compile_kernels, python)
        with _step("3/3 installing the dependencies (about 80 MB)") as show:
            rest = ["--no-build-isolation", "-c", "constraints.txt", "-e", ".[quickstart]"]
            _run([python, *PIP, *rest], show=show, HOSTELRY_BUILD_KERNELS="0")
        print(f"    {kernels.result()}", flush=True)


@contextmanager
def _step(text: str) -> Iterator[Callable[[str], None]]:
    """Print `text` and the seconds that the body takes; on a terminal also the lines shown meanwhile, in one place."""
    start, is_terminal = time.monotonic(), sys.stdout.isatty()

    def show(line: str) -> None:
        if is_terminal:
            print(f"\r\033[K{text} ... {line.strip()[:WIDTH]}", end="", flush=True)

    print(f"{text} ...", end="", flush=True)
    try:
        yield show
    except subprocess.CalledProcessError as error:
        print(f" failed:\n{error.output}", flush=True)
        raise SystemExit(1) from None
    show("")
    print(f" {time.monotonic() - start:.0f} s", flush=True)


def _compile_kernels(python: Path) -> str:
    """A line about what was built. A machine without a compiler goes without them."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        places = (f"--build-lib={folder}/lib", f"--build-temp={folder}/temp")
        try:
            printed = _run([python, "setup.py", "-q", "build_ext", "--inplace", *places])
        except subprocess.CalledProcessError as error:
            return f"the CPU kernels were not built:\n{error.output}"
    *_, last = printed.strip().splitlines() or ["no CPU kernels: HOSTELRY_BUILD_KERNELS=0"]
    if last.startswith("CPU kernels built"):
        return f"{last} in {time.monotonic() - start:.0f} s"
    return last.removeprefix("warning: BuildKernels: ")


def _build_requirements() -> list[str]:
    import tomllib  # from 3.11 on

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements: list[str] = project["build-system"]["requires"]
    return requirements


def _has_pip(python: Path) -> bool:
    return python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0


def _run(command: list[str | Path], *, show: Callable[[str], None] | None = None, **environment: str) -> str:
    """Run `command` and return what it printed. Raises `CalledProcessError` with the same if it fails."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if show:
            show(line)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command, "".join(printed))
    return "".join(printed)


if __name__ == "__main__":
    main()
