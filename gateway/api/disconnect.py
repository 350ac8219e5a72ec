"""Handles clients that disconnect before their response is complete: a normal path, not an error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from litestar.types import Receive


class ClientGone(BaseException):
    """Raised when the connection ended, or the client stopped reading.

    Like a cancellation it is no error: no response can reach the client, so no edge may turn it into one.
    """


async def serve_until_gone(
    receive: Receive,
    serve: Callable[[asyncio.TaskGroup], Awaitable[None]],
) -> None:
    """Run `serve`, and cancel it as soon as the client disconnects or one of its tasks raises `ClientGone`.

    The body of the request must have been read. Raises what `serve` raises.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(_raise_when_gone(receive))
            await serve(tasks)
            watcher.cancel()
    except BaseExceptionGroup as group:
        raise_unless_gone(group)


def raise_unless_gone(group: BaseExceptionGroup) -> None:
    """Raise the first exception of a task group that is not `ClientGone`, if there is one."""
    _, others = group.split(ClientGone)
    if others is not None:
        raise others.exceptions[0] from None


async def _raise_when_gone(receive: Receive) -> NoReturn:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientGone
