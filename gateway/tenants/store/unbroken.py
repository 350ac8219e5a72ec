"""Work that is not to be left half done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE_S = 2.5
"""Longer than SQLite waits for a lock."""


async def unbroken(work: Coroutine[Any, Any, T]) -> T:  # Any: what a coroutine says to its loop
    """Do the work to its end. Whoever is cancelled meanwhile waits for that, and is cancelled then.

    Work that does not end soon after, or a caller that is cancelled once more, cancels the work itself.
    """
    task = asyncio.create_task(work)
    cancelled = await _wait(task, timeout_s=None)
    if cancelled is None:
        return task.result()
    if not task.done():
        await _wait(task, timeout_s=PATIENCE_S)
    if not task.done():
        task.cancel()
        await _wait(task, timeout_s=PATIENCE_S)
    if task.done() and not task.cancelled():
        task.exception()  # nobody will ask for it, and asyncio complains of errors that nobody saw
    raise cancelled


async def _wait(task: asyncio.Task[Any], *, timeout_s: float | None) -> asyncio.CancelledError | None:
    try:
        await asyncio.wait([task], timeout=timeout_s)
    except asyncio.CancelledError as error:
        return error
    return None
