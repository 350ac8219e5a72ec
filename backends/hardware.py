"""Which accelerators this machine has, asked without importing a tensor library."""

from __future__ import annotations

import ctypes
import platform

_CUDA_LIBRARY = {"Windows": "nvcuda.dll"}.get(platform.system(), "libcuda.so.1")


def has_cuda_device() -> bool:
    """Whether NVIDIA's driver is there and sees a device."""
    try:
        driver = ctypes.CDLL(_CUDA_LIBRARY)
    except OSError:
        return False
    count = ctypes.c_int(0)
    # cuInit and cuDeviceGetCount return 0 on success (CUDA Driver API).
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def has_metal_device() -> bool:
    """Whether this is a Mac with Apple's own processor."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"
