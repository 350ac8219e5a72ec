"""Giving pages of a mapped file back once they have been read, so that a large source never fills the memory."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt


def release_pages(data: npt.NDArray[np.uint8]) -> None:
    """Drop the pages of a view of a mapped file from this process; reading them again fetches them again.

    Does nothing for arrays of another kind, and where the system has no such call.
    """
    base: object = data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if not isinstance(base, mmap.mmap) or advice is None:
        return
    start = data.ctypes.data - np.frombuffer(base, np.uint8, count=1).ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # the pages at both ends are shared with other tensors
    end = (start + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        base.madvise(advice, first, end - first)
