"""Events → answers: one path, three endings. SSE and WebSocket stream chunks, the third folds them into one body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from backends.errors import ContextLengthExceeded
from backends.generation import Delta, Done, Event, Failed, Started, Usage
from gateway.api.account import Account
from gateway.api.choices import Choices
from gateway.api.chunks import ChatChunks, CompletionChunks
from gateway.api.convert import Plan
from gateway.api.fold import Fold
from gateway.api.gone import ClientGone
from gateway.errors import GenerationFailed
from gateway.metrics import Outcome
from gateway.services import Services

Write = Callable[[bytes], Awaitable[None]]


class Generation:
    """One accepted request: its events, metered."""

    def __init__(self, plan: Plan, choices: Choices, account: Account, started: list[Started]) -> None:
        self.plan = plan
        self.started = started
        self._choices = choices
        self._account = account

    async def next(self) -> tuple[int, Delta | Done] | None:
        """The next event of any choice, None at the end. Raises `GenerationFailed`."""
        found = await self._choices.next()
        if found is None:
            return None
        choice, event = found
        self._account.see(choice, event)
        return choice, _delta_or_done(event)

    def usage(self) -> Usage:
        return self._account.usage()


@asynccontextmanager
async def accepted(plan: Plan, services: Services) -> AsyncGenerator[Generation]:
    """Start the plan and wait until the backend took it; on leaving, release and count it, however it ended.

    Raises `RateLimited`, `QuotaExceeded` or `UsageUnavailable` before it runs, `RequestError` if the backend refuses.
    """
    account = Account(plan, services)
    choices = Choices(plan.served, plan.requests)
    outcome: Outcome = "refused"
    try:
        await account.enter()
        started = await _accepted(choices, account)
        await account.reserve(started)
        outcome = "failed"
        for choice, event in enumerate(started):
            account.see(choice, event)
        yield Generation(plan, choices, account, started)
        outcome = "completed"
    except (asyncio.CancelledError, ClientGone):
        outcome = "cancelled"
        raise
    except GenerationFailed as error:
        outcome = "shutdown" if error.code == "server_shutdown" else "failed"
        raise
    except Exception as error:
        if outcome == "refused":
            account.refuse(error)
        raise
    finally:
        account.close(outcome)
        await choices.aclose()


async def _accepted(choices: Choices, account: Account) -> list[Started]:
    try:
        return await choices.accepted()
    except ContextLengthExceeded as error:
        raise account.refusal(error) from error


async def stream(generation: Generation, chunks: ChatChunks | CompletionChunks, write: Write) -> None:
    """Write every chunk as it comes, up to the usage chunk; what marks the end is the transport's affair.

    Waiting for `write` is the back-pressure of a slow reader. Raises `GenerationFailed` in the midst.
    """
    for choice, started in enumerate(generation.started):
        opening = chunks.opening(choice, started.prompt_text)
        if opening is not None:
            await write(opening)
    while (found := await generation.next()) is not None:
        choice, event = found
        if isinstance(event, Done):
            await write(chunks.finish(choice, event.finish_reason))
        elif event.text or event.logprobs:
            await write(chunks.delta(choice, event))
    if generation.plan.include_usage:
        await write(chunks.usage(generation.usage()))


async def fold(generation: Generation) -> bytes:
    """The whole answer as one body. Raises `GenerationFailed`."""
    folded = Fold(generation.plan, generation.started)
    while (found := await generation.next()) is not None:
        folded.take(*found)
    return folded.body(generation.usage())


def _delta_or_done(event: Event) -> Delta | Done:
    if isinstance(event, (Delta, Done)):
        return event
    if isinstance(event, Failed):
        raise GenerationFailed(event.message, code=event.code)
    raise GenerationFailed("the engine answered out of order; try again", code="engine_failed")
