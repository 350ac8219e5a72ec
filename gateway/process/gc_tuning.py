"""How often Python looks for garbage that only its collector can find."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

_YOUNG_OBJECTS = 25_000
"""A request holds hundreds of containers while it runs, and reference counts free them; only what went wrong leaves
cycles behind. With Python's own 700, every few requests the collector visited all that run."""


@contextmanager
def gc_paused() -> Generator[None]:
    """No collections inside the block, and none of what it leaves: modules stay, and looking at them is a tenth of the
    time that importing takes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def freeze_objects() -> None:
    """To be called when a process has started: what is there now lives as long as it, and is never visited again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
