"""Every file that fuzzing found interesting still gives a model or a clear error, soon and without much memory."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, TARGETS

LIMIT_S, LIMIT_BYTES = 0.1, 4 * 1024 * 1024


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus(name: str) -> None:
    """Best of two runs below 100 ms, and no allocation that the file's size does not explain."""
    files = sorted((CORPUS / name).iterdir())
    assert len(files) >= 10

    slow = [path.name for path in files if min(_seconds(name, path) for _ in range(2)) > LIMIT_S]
    large = [path.name for path in files if _peak_bytes(name, path) > LIMIT_BYTES]

    assert (slow, large) == ([], [])


def _seconds(name: str, path: Path) -> float:
    data = path.read_bytes()
    start = time.perf_counter()
    TARGETS[name](data)
    return time.perf_counter() - start


def _peak_bytes(name: str, path: Path) -> int:
    data = path.read_bytes()
    tracemalloc.start()
    try:
        TARGETS[name](data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
