"""Periodic background tasks, which stop between two turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

LAST_TURN_S = 2.5
"""Longer than SQLite waits for a lock."""

Run = Callable[[asyncio.Event], Coroutine[Any, Any, None]]  # Any: values that a coroutine sends to its event loop


async def pause(stop: asyncio.Event, *, seconds: float) -> bool:
    """Wait that long, or until `stop` is set. True if there is another turn."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return not stop.is_set()


@asynccontextmanager
async def in_background(*runs: Run) -> AsyncGenerator[None]:
    """Run all tasks during the block. At its end each gets its stop event, and is cancelled if it does not stop."""
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
