"""Sessions that may be cancelled at any moment: work that must not be left half done is finished first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")
PATIENCE_S = 2.5
"""Longer than SQLite waits for a lock."""


async def shielded(work: Coroutine[Any, Any, T]) -> T:  # Any: values that a coroutine sends to its event loop
    """Run the work to its end. A caller that is cancelled meanwhile waits for that, and is cancelled then.

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
        task.exception()  # read it, because asyncio logs exceptions that are never retrieved
    raise cancelled


async def _wait(task: asyncio.Task[Any], *, timeout_s: float | None) -> asyncio.CancelledError | None:
    try:
        await asyncio.wait([task], timeout=timeout_s)
    except asyncio.CancelledError as error:
        return error
    return None


class ShieldedSession(AsyncSession):
    """Session that runs every statement to its end, even when the task that waits for it is cancelled meanwhile.

    A driver that is cancelled inside a statement loses its connection, and with SQLite its lock stays taken; cancelled
    while a connection returns to the pool, SQLAlchemy logs an error and a traceback.
    """

    # Any: whatever SQLAlchemy's own methods take and return, of which there are many overloads

    async def execute(self, *args: Any, **options: Any) -> Any:
        return await shielded(super().execute(*args, **options))

    async def scalar(self, *args: Any, **options: Any) -> Any:
        return await shielded(super().scalar(*args, **options))

    async def get(self, *args: Any, **options: Any) -> Any:
        return await shielded(super().get(*args, **options))

    async def run_sync(self, *args: Any, **options: Any) -> Any:
        return await shielded(super().run_sync(*args, **options))

    async def flush(self, *args: Any, **options: Any) -> None:
        await shielded(super().flush(*args, **options))

    async def commit(self) -> None:
        await shielded(super().commit())

    async def close(self) -> None:
        await shielded(super().close())
