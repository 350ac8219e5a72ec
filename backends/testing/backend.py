"""Fake `Backend` without an engine: it plays a script, can be made to wait, and records its requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

import msgspec

from backends.api import BackendCapabilities, Health
from backends.errors import BackendError, DeadlineExceeded
from backends.generation import ChatPrompt, Delta, Done, Event, Failed, FinishReason, GenerateRequest, Started, Usage


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """Script of one response. `pieces` are deltas; a text counts as one token.

    `refusal` is raised before `Started`, `fault` after the last piece; `failure` (code, message) ends the request in
    `Failed`. `pause_before` names the piece before which the request waits for `FakeBackend.resume` (0 is the first,
    `len(pieces)` the end, -1 is `Started`).
    """

    pieces: tuple[str | Delta, ...] = ("Hello", " world")
    prompt_tokens: int = 7
    cached_tokens: int = 0
    prompt_text: str = ""
    finish_reason: FinishReason = "stop"
    pause_before: int | None = None
    refusal: BackendError | None = None
    fault: Exception | None = None
    failure: tuple[str, str] | None = None
    breaks_off: bool = False
    """End without `Done` or `Failed`, against the contract."""


class FakeBackend:
    """Implements `backends.api.Backend`. Created and used on one event loop."""

    def __init__(
        self,
        script: Script | Callable[[GenerateRequest], Script] | None = None,
        *,
        health: Health | None = None,
        adapters: bool = False,
    ) -> None:
        self._adapters = adapters
        self._script = script or Script()
        self.current_health = health or Health(ready=True)
        self.requests: list[GenerateRequest] = []
        """Every request that was accepted or rejected, in order."""
        self.running: set[str] = set()
        """Ids of requests that have started and not ended."""
        self.cancelled: list[str] = []
        """Ids of requests whose iterator was closed before its end."""
        self.num_deltas = 0
        """Deltas that were fetched, over all requests."""
        self.paused = asyncio.Event()
        """Set once a request waits in a pause."""
        self.ended = asyncio.Event()
        """Set once a request has ended, however it did."""
        self._resumed = asyncio.Event()

    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities(max_context=4096, chat=True, adapters=self._adapters)

    def health(self) -> Health:
        return self.current_health

    def resume(self) -> None:
        """Let requests pass their pause, now and later."""
        self._resumed.set()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Play the script. See `Backend.generate`."""
        script = self._script if isinstance(self._script, Script) else self._script(request)
        self.requests.append(request)
        if script.refusal is not None:
            raise script.refusal
        if request.deadline_at is not None and request.deadline_at <= time.monotonic():
            raise DeadlineExceeded("the deadline passed before the request could begin", param="deadline_s")
        self.running.add(request.request_id)
        is_over = False
        try:
            async for event in self._play(script, request):
                is_over = isinstance(event, (Done, Failed))
                yield event
            is_over = True
        finally:
            self.running.discard(request.request_id)
            if not is_over:
                self.cancelled.append(request.request_id)
            self.ended.set()

    async def aclose(self) -> None:
        self.current_health = Health(ready=False, detail="closed")

    async def _play(self, script: Script, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        deadline_at = request.deadline_at
        await self._pause(script, -1, deadline_at)
        yield Started(script.prompt_tokens, script.prompt_text or _text_of(request))
        limit = len(script.pieces) if request.max_tokens is None else request.max_tokens
        num_tokens = 0
        for index, piece in enumerate(script.pieces[:limit]):
            if not await self._pause(script, index, deadline_at):
                yield Failed("deadline_exceeded", "too late", _usage(script, num_tokens))
                return
            delta = piece if isinstance(piece, Delta) else Delta(piece, token_ids=(index,))
            num_tokens += len(delta.token_ids)
            self.num_deltas += 1
            yield delta
        if not await self._pause(script, len(script.pieces), deadline_at):
            yield Failed("deadline_exceeded", "too late", _usage(script, num_tokens))
            return
        if script.fault is not None:
            raise script.fault
        if script.breaks_off:
            return
        usage = _usage(script, num_tokens)
        if script.failure is not None:
            yield Failed(*script.failure, usage)
            return
        yield Done("length" if limit < len(script.pieces) else script.finish_reason, usage)

    async def _pause(self, script: Script, position: int, deadline_at: float | None) -> bool:
        """Wait if the script pauses here. True if there is time left."""
        if script.pause_before == position:
            self.paused.set()
            resumed = asyncio.ensure_future(self._resumed.wait())
            try:
                await asyncio.wait((resumed,), timeout=_seconds_until(deadline_at))
            finally:
                resumed.cancel()
        return deadline_at is None or time.monotonic() < deadline_at


def _seconds_until(deadline_at: float | None) -> float | None:
    return None if deadline_at is None else max(0.0, deadline_at - time.monotonic())


def _usage(script: Script, num_tokens: int) -> Usage:
    return Usage(prompt_tokens=script.prompt_tokens, completion_tokens=num_tokens, cached_tokens=script.cached_tokens)


def _text_of(request: GenerateRequest) -> str:
    """Prompt text that an engine returns for `echo`; chats are never echoed."""
    prompt = request.prompt
    return "" if isinstance(prompt, ChatPrompt) else getattr(prompt, "text", "")
