"""Turns events into responses: one path, three ends. SSE and WebSocket stream chunks; `fold` makes one body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

from backends.errors import ContextLengthExceeded
from backends.generation import Delta, Done, Event, Failed, FinishReason, Started, TokenLogprob, Usage
from gateway.api.accounting import RequestAccount
from gateway.api.convert import RequestPlan
from gateway.api.disconnect import ClientGone
from gateway.api.encode import ChatChunks, CompletionChunks, CompletionTokens, chat_logprobs, usage_object
from gateway.api.generation import Choices
from gateway.api.schemas.chat import AssistantMessage, ChatChoice, ChatCompletion
from gateway.api.schemas.completions import Completion, CompletionChoice
from gateway.api.services import Services
from gateway.errors import GenerationFailed
from gateway.metrics import RequestOutcome

_encode = msgspec.json.Encoder().encode


class _Choice:
    """Collected output of one choice."""

    def __init__(self, text: str) -> None:
        self.pieces = [text] if text else []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason = "stop"

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Fold:
    """Collects the events of every choice of a plan."""

    def __init__(self, plan: RequestPlan, started: list[Started]) -> None:
        self._plan = plan
        self._choices = [_Choice(each.prompt_text if plan.echo else "") for each in started]

    def take(self, choice: int, event: Delta | Done) -> None:
        collected = self._choices[choice]
        if isinstance(event, Done):
            collected.finish_reason = event.finish_reason
            return
        collected.pieces.append(event.text)
        collected.logprobs += event.logprobs

    def body(self, usage: Usage) -> bytes:
        """Response as JSON, once every choice is done."""
        return _encode(self._chat(usage) if self._plan.kind == "chat" else self._completion(usage))

    def _chat(self, usage: Usage) -> ChatCompletion:
        plan = self._plan
        choices = [
            ChatChoice(
                index=index,
                message=AssistantMessage(content=each.text),
                logprobs=None if plan.logprobs is None else chat_logprobs(tuple(each.logprobs)),
                finish_reason=each.finish_reason,
            )
            for index, each in enumerate(self._choices)
        ]
        return ChatCompletion(
            id=plan.id, created=plan.created, model=plan.model, choices=choices, usage=usage_object(usage)
        )

    def _completion(self, usage: Usage) -> Completion:
        plan = self._plan
        choices = [
            CompletionChoice(
                index=index,
                text=each.text,
                logprobs=None
                if plan.logprobs is None
                else CompletionTokens().take(tuple(each.logprobs), with_top=bool(plan.logprobs)),
                finish_reason=each.finish_reason,
            )
            for index, each in enumerate(self._choices)
        ]
        return Completion(
            id=plan.id,
            object="text_completion",
            created=plan.created,
            model=plan.model,
            choices=choices,
            usage=usage_object(usage),
        )


Write = Callable[[bytes], Awaitable[None]]


class Generation:
    """Metered events of one accepted request."""

    def __init__(self, plan: RequestPlan, choices: Choices, account: RequestAccount, started: list[Started]) -> None:
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
async def accepted(plan: RequestPlan, services: Services) -> AsyncGenerator[Generation]:
    """Start the plan and wait until the backend accepted it; on leaving, release and count it, however it ended.

    Raises `RateLimited`, `QuotaExceeded` or `UsageUnavailable` before it runs, `RequestError` if the backend rejects
    it.
    """
    account = RequestAccount(plan, services)
    choices = Choices(plan.served, plan.requests)
    outcome: RequestOutcome = "refused"
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


async def _accepted(choices: Choices, account: RequestAccount) -> list[Started]:
    try:
        return await choices.accepted()
    except ContextLengthExceeded as error:
        raise account.refusal(error) from error


async def stream(generation: Generation, chunks: ChatChunks | CompletionChunks, write: Write) -> None:
    """Write every chunk as it comes, up to the usage chunk; the transport marks the end.

    Waiting for `write` is the back-pressure of a slow reader. Raises `GenerationFailed` in the middle.
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
    """The whole response as one body. Raises `GenerationFailed`."""
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
