"""Chooses the runner for `--backend auto` on this machine; accelerators are found without a tensor library."""

from __future__ import annotations

import ctypes
import platform

import msgspec

from backends.registry import RunnerUnavailable, missing_packages

_CUDA_LIBRARY = {"Windows": "nvcuda.dll"}.get(platform.system(), "libcuda.so.1")


def has_cuda_device() -> bool:
    """True if NVIDIA's driver is installed and finds a device."""
    try:
        driver = ctypes.CDLL(_CUDA_LIBRARY)
    except OSError:
        return False
    count = ctypes.c_int(0)
    # cuInit and cuDeviceGetCount return 0 on success (CUDA Driver API).
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def has_metal_device() -> bool:
    """True on a Mac with Apple's own processor."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


class RunnerChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A runner, a sentence for operators, and what was passed over though the machine could have it."""

    runner: str
    reason: str
    fallback: str = ""


def choose_runner() -> RunnerChoice:
    """The fastest installed runner for the best device of this machine.

    Raises `RunnerUnavailable` when no engine is installed.
    """
    if has_cuda_device():
        return _prefer("torch", "an NVIDIA device is here")
    if has_metal_device():
        return _prefer("mlx", "this is Apple silicon")
    return _on_cpu("no accelerator was found")


def _prefer(runner: str, because: str) -> RunnerChoice:
    absent, extra = missing_packages(runner)
    if not absent:
        return RunnerChoice(runner=runner, reason=because)
    choice = _on_cpu(because)
    missed = f'{because}, but {" and ".join(absent)} is not installed: pip install "hostelry[{extra}]"'
    return msgspec.structs.replace(choice, fallback=missed)


def _on_cpu(because: str) -> RunnerChoice:
    """ONNX Runtime is the fastest on CPUs by far; the others are better than nothing."""
    for runner in ("onnx", "torch", "mlx"):
        if not missing_packages(runner)[0]:
            return RunnerChoice(runner=runner, reason=f"{because}, and it is the fastest installed engine on the CPU")
    raise RunnerUnavailable('no engine is installed; for one on the CPU: pip install "hostelry[onnx]"')
