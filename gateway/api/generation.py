"""Runs the choices of one plan on their backend and merges their events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from backends.generation import Done, Event, Failed, GenerateRequest, Started
from gateway.errors import GenerationFailed
from gateway.routing import ServedModel

_CUT_OFF = "the engine stopped without a result; try again"


class Choices:
    """Owns the event iterators of one plan: `accepted` first, then `next` until None; `aclose` ends what still runs."""

    def __init__(self, served: ServedModel, requests: tuple[GenerateRequest, ...]) -> None:
        self._iterators = [served.backend.generate(request) for request in requests]
        self._unfinished = len(self._iterators)
        self._is_running = len(self._iterators) == 1
        self._asked: dict[asyncio.Task[Event | None], int] = {}
        self._arrived: deque[tuple[int, Event]] = deque()

    async def accepted(self) -> list[Started]:
        """Wait until the backend accepted every choice. Raises its error if it rejected one."""
        if len(self._iterators) == 1:
            return [_started(await anext(self._iterators[0], None))]
        self._ask_all()
        await asyncio.wait(self._asked, return_when=asyncio.FIRST_EXCEPTION)
        for task in self._asked:
            if task.done():
                task.result()  # a rejection comes first
        started = [_started(task.result()) for task in self._asked]
        self._asked.clear()
        return started

    async def next(self) -> tuple[int, Event] | None:
        """The next (choice, event) of any choice, or None after the last one's `Done`.

        Raises `GenerationFailed` if a choice ends without a final event; a `Failed` is returned like any event.
        """
        if self._unfinished == 0:
            return None
        if not self._is_running:
            self._is_running = True
            self._ask_all()
        choice, event = await self._next_of_many() if len(self._iterators) > 1 else await self._next_of_one()
        if isinstance(event, Done):
            self._unfinished -= 1
        return choice, event

    async def aclose(self) -> None:
        """Cancel and release everything. May be called twice."""
        for task in self._asked:
            task.cancel()
        if self._asked:
            await asyncio.gather(*self._asked, return_exceptions=True)
        for iterator in self._iterators:
            close: Callable[[], Awaitable[None]] | None = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    async def _next_of_one(self) -> tuple[int, Event]:
        event = await anext(self._iterators[0], None)
        if event is None:
            raise GenerationFailed(_CUT_OFF, code="engine_failed")
        return 0, event

    async def _next_of_many(self) -> tuple[int, Event]:
        if not self._arrived:
            await self._wait()
        choice, event = self._arrived.popleft()
        return choice, event

    async def _wait(self) -> None:
        """Collect the events that have arrived, and request more from those choices."""
        done, _ = await asyncio.wait(self._asked, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in self._asked if task in done]:
            choice = self._asked.pop(task)
            event = task.result()
            if event is None:
                raise GenerationFailed(_CUT_OFF, code="engine_failed")
            self._arrived.append((choice, event))
            if not isinstance(event, Done):
                self._ask(choice)

    def _ask_all(self) -> None:
        for choice in range(len(self._iterators)):
            self._ask(choice)

    def _ask(self, choice: int) -> None:
        self._asked[asyncio.create_task(_next_event(self._iterators[choice]))] = choice


async def _next_event(iterator: AsyncIterator[Event]) -> Event | None:
    return await anext(iterator, None)


def _started(event: Event | None) -> Started:
    if isinstance(event, Started):
        return event
    if isinstance(event, Failed):
        raise GenerationFailed(event.message, code=event.code)
    raise GenerationFailed(_CUT_OFF, code="engine_failed")
