"""A session that may be cancelled at any moment, as tasks are."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.store.unbroken import unbroken


class UnbrokenSession(AsyncSession):
    """Every statement is done to its end, also when the task that waits for it is cancelled, which it is then.

    A driver that is cancelled inside a statement loses its connection, and with SQLite the lock that it held stays
    held; cancelled while a connection goes back to the pool, SQLAlchemy logs an error and a traceback.
    """

    # Any: whatever SQLAlchemy's own methods take and return, of which there are many overloads

    async def execute(self, *args: Any, **options: Any) -> Any:
        return await unbroken(super().execute(*args, **options))

    async def scalar(self, *args: Any, **options: Any) -> Any:
        return await unbroken(super().scalar(*args, **options))

    async def get(self, *args: Any, **options: Any) -> Any:
        return await unbroken(super().get(*args, **options))

    async def run_sync(self, *args: Any, **options: Any) -> Any:
        return await unbroken(super().run_sync(*args, **options))

    async def flush(self, *args: Any, **options: Any) -> None:
        await unbroken(super().flush(*args, **options))

    async def commit(self) -> None:
        await unbroken(super().commit())

    async def close(self) -> None:
        await unbroken(super().close())
