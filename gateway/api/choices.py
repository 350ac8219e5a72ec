"""Runs the choices of one plan on their backend and merges their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

from backends.generation import Done, Event, Failed, GenerateRequest, Started
from gateway.errors import GenerationFailed
from gateway.routing import ServedModel


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


class Choices:
    """Owner of the event iterators of one plan; `aclose` ends what still runs."""

    def __init__(self, served: ServedModel, requests: tuple[GenerateRequest, ...]) -> None:
        self._iterators = [served.backend.generate(request) for request in requests]
        self._next: dict[asyncio.Task[Event], int] = {}

    async def accepted(self) -> list[Started]:
        """Wait until the backend took every choice. Raises what it raised if it refused one."""
        if len(self._iterators) == 1:
            return [_started(await anext(self._iterators[0]))]
        self._next = {self._ask(index): index for index in range(len(self._iterators))}
        await asyncio.wait(self._next, return_when=asyncio.FIRST_EXCEPTION)
        refused = next((task for task in self._next if task.done() and task.exception()), None)
        asked = [refused] if refused else list(self._next)
        return [_started(task.result()) for task in asked]

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield (choice, event) as they come, after `accepted`, until each choice is done.

        Raises `GenerationFailed` if one fails, or ends without saying how.
        """
        source = self._merged() if len(self._iterators) > 1 else self._single()
        unfinished = len(self._iterators)
        async for choice, event in source:
            if isinstance(event, Failed):
                yield choice, event
                raise GenerationFailed(event.message, code=event.code)
            unfinished -= isinstance(event, Done)
            yield choice, event
        if unfinished:
            raise GenerationFailed("the engine stopped without a result; try again", code="engine_failed")

    async def aclose(self) -> None:
        """Cancel and release everything. May be called twice."""
        for task in self._next:
            task.cancel()
        if self._next:
            await asyncio.wait(self._next)
        for iterator in self._iterators:
            if isinstance(iterator, _Closable):
                await iterator.aclose()

    async def _single(self) -> AsyncIterator[tuple[int, Event]]:
        async for event in self._iterators[0]:
            yield 0, event

    async def _merged(self) -> AsyncIterator[tuple[int, Event]]:
        self._next = {self._ask(index): index for index in range(len(self._iterators))}
        while self._next:
            done, _ = await asyncio.wait(self._next, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=self._next.__getitem__):
                choice = self._next.pop(task)
                if isinstance(task.exception(), StopAsyncIteration):
                    continue
                event = task.result()
                self._next[self._ask(choice)] = choice
                yield choice, event

    def _ask(self, choice: int) -> asyncio.Task[Event]:
        return asyncio.create_task(_next_event(self._iterators[choice]))


async def _next_event(iterator: AsyncIterator[Event]) -> Event:
    return await anext(iterator)


def _started(event: Event) -> Started:
    if isinstance(event, Started):
        return event
    if isinstance(event, Failed):
        raise GenerationFailed(event.message, code=event.code)
    raise GenerationFailed("the engine answered out of order; try again", code="engine_failed")
