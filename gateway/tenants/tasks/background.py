"""Work in the background that comes again and again, and ends between two turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

LAST_TURN_S = 2.5
"""Longer than SQLite waits for a lock."""

Run = Callable[[asyncio.Event], Coroutine[Any, Any, None]]  # Any: what a coroutine says to its loop


async def pause(stop: asyncio.Event, *, seconds: float) -> bool:
    """Wait that long, or until `stop` is set. Whether there is to be another turn."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return not stop.is_set()


@asynccontextmanager
async def in_background(*runs: Run) -> AsyncGenerator[None]:
    """Run all of them beside the block. At its end each is told to stop, and cancelled if it does not."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(run(stop)) for run in runs]
    try:
        yield
    finally:
        stop.set()
        _, late = await asyncio.wait(tasks, timeout=LAST_TURN_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
