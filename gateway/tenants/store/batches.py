"""Statements hold only so many values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
_BATCH = 500


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in order, so many at a time as one statement takes."""
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
