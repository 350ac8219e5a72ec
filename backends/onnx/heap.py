"""Returns freed memory to the system."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Loading frees as many bytes as the model has; glibc would keep most of them. Does nothing elsewhere."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
