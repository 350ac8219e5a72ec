"""How fast this machine reads memory: the ceiling of decoding, which reads every weight once a token."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

_BYTES = 256 * 1024 * 1024
"""A thread's share: far beyond any cache."""


def read_bytes_per_s(*, threads: int, rounds: int = 5) -> float:
    """Best of `rounds` of `threads` threads that read 256 MiB each."""
    arrays = [np.ones(_BYTES // 8, np.int64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return max(threads * _BYTES / _timed(pool, arrays) for _ in range(rounds))


def _timed(pool: ThreadPoolExecutor, arrays: list[npt.NDArray[np.int64]]) -> float:
    start = time.perf_counter()
    list(pool.map(np.max, arrays))
    return time.perf_counter() - start
