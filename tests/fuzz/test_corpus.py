"""Every file that fuzzing found interesting still gives a model or a clear error, soon and without much memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.costs import cost_ratio
from tests.fuzz.targets import CORPUS, TARGETS

LIMIT_COST, LIMIT_BYTES = 10.0, 4 * 1024 * 1024
"""A cost of 1 is that of the largest sound file."""


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus(name: str) -> None:
    """No file costs ten times as much as a sound one, and there is no allocation that its size does not explain."""
    files = sorted((CORPUS / name).iterdir())
    assert len(files) >= 10

    sound = max((path for path in files if path.name.startswith("seed-")), key=lambda path: path.stat().st_size)
    slow = [path.name for path in files if cost_ratio(_fed(name, path), _fed(name, sound), rounds=3) > LIMIT_COST]
    large = [path.name for path in files if _peak_bytes(name, path) > LIMIT_BYTES]

    assert (slow, large) == ([], [])


def _fed(name: str, path: Path) -> Callable[[], None]:
    data = path.read_bytes()
    return lambda: TARGETS[name](data)


def _peak_bytes(name: str, path: Path) -> int:
    data = path.read_bytes()
    tracemalloc.start()
    try:
        TARGETS[name](data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
