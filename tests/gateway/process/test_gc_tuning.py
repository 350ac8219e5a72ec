"""Objects that the garbage collector scans."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from gateway.process.gc_tuning import freeze_objects, gc_paused

PYTHONS_OWN = (700, 10, 10)


class Node:
    """Object that may refer to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.set_threshold(*PYTHONS_OWN)  # an engine in a thread of this process may have changed them
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_there_is_spared_and_what_comes_is_not() -> None:
    """A cycle from before the call stays, one from after it is found."""
    before, after = Node(), Node()
    held, found = weakref.ref(before), weakref.ref(after)
    del after
    freeze_objects()
    late = Node()
    found_late = weakref.ref(late)

    del before, late
    gc.collect()

    assert found() is None
    assert held() is not None
    assert found_late() is None


def test_young_objects_are_left_alone_for_longer() -> None:
    """Requests that run together do not make the collector start."""
    freeze_objects()

    assert gc.get_threshold()[0] > 10 * PYTHONS_OWN[0]


def test_importing_is_not_visited() -> None:
    """Nothing is collected inside the block, what it leaves is spared, and afterwards the collector works again."""
    with gc_paused():
        assert not gc.isenabled()
        left = Node()
    held = weakref.ref(left)

    del left
    gc.collect()

    assert held() is not None
    assert gc.isenabled()
