"""Open requests of an engine: created, sent, and kept until each has exactly one last output, even if engines fail."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable

import msgspec

from backends.errors import ContextLengthExceeded, DeadlineExceeded, RequestError
from backends.generation import ChatPrompt, GenerateRequest
from gateway.batching.messages import Add, Failure, Output
from gateway.engine.messages import Abort, Ready, ToEngine

_MASK64 = (1 << 64) - 1


def check_request(request: GenerateRequest, facts: Ready) -> None:
    """Raises `RequestError` for parameters that fail with any prompt."""
    if request.adapter is not None and request.adapter not in facts.adapters:
        raise RequestError(f"this engine has no adapter {request.adapter!r}; name another model", param="model")
    for token_id in request.sampling.logit_bias:
        if not 0 <= token_id < facts.vocab_size:
            raise RequestError(
                f"logit_bias: token id {token_id} is not within 0 to {facts.vocab_size - 1}", param="logit_bias"
            )


def seconds_left(request: GenerateRequest) -> float | None:
    """Seconds until its deadline, if it has one. Raises `DeadlineExceeded` if that has passed."""
    if request.deadline_at is None:
        return None
    left_s = request.deadline_at - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded("the deadline passed before the request could begin", param="deadline_s")
    return left_s


def max_new_tokens(request: GenerateRequest, *, num_prompt: int, max_context: int) -> int:
    """Most tokens to generate; by default, until the context is full. Raises `ContextLengthExceeded`."""
    owner = "model"
    if request.max_context is not None and request.max_context < max_context:
        owner, max_context = "tenant", request.max_context
    wanted = 1 if request.max_tokens is None else request.max_tokens
    if wanted < 0:
        raise RequestError(f"max_tokens must not be negative, but is {wanted}", param="max_tokens")
    surplus = num_prompt + wanted - max_context
    if surplus <= 0:
        return max_context - num_prompt if request.max_tokens is None else wanted
    limit = f"This {owner}'s maximum context length is {max_context} tokens"
    if num_prompt >= max_context or wanted <= 1:
        least = num_prompt + min(wanted, 1) - max_context
        raise ContextLengthExceeded(
            f"{limit}, but the prompt has {num_prompt}; shorten it by at least {least} tokens, so that an answer fits",
            param="messages" if isinstance(request.prompt, ChatPrompt) else "prompt",
        )
    raise ContextLengthExceeded(
        f"{limit}, but the prompt has {num_prompt} and max_tokens asks for {wanted} more; "
        f"lower max_tokens to {max_context - num_prompt} or shorten the prompt by at least {surplus} tokens",
        param="max_tokens",
    )


def make_add(request: GenerateRequest, token_ids: list[int], *, max_tokens: int, eos_ids: tuple[int, ...]) -> Add:
    """`Add` message for the engine; the client sets its id. A missing seed is drawn here: a replay repeats it."""
    seed, deadline_at = request.sampling.seed, request.deadline_at
    return Add(
        id=0,
        token_ids=tuple(token_ids),
        max_tokens=max_tokens,
        sampling=request.sampling,
        seed=secrets.randbits(63) if seed is None else seed & _MASK64,
        stop_token_ids=() if request.ignore_eos else eos_ids,
        share=request.share,
        adapter=request.adapter,
        prompt_logprobs=request.prompt_logprobs,
        deadline_s=None if deadline_at is None else max(0.0, deadline_at - time.monotonic()),
    )


Send = Callable[[ToEngine], None]
_TOO_LATE = Failure(str(DeadlineExceeded.code), "the response was not complete when the deadline of the request passed")


class OutputStream:
    """Outputs of one request, in order. Belongs to one consumer, which must `close` it."""

    def __init__(self, open_requests: OpenRequests, add: Add) -> None:
        self._open_requests = open_requests
        self._arrived: list[Output] = []
        self._has_arrived = asyncio.Event()
        self.add = add
        self.has_emitted = False
        self.is_sent = False
        self.was_replayed = False

    async def get(self) -> list[Output]:
        """All outputs that arrived since the last call, at least one. Not to be called after the last output."""
        await self._has_arrived.wait()
        self._has_arrived.clear()
        arrived, self._arrived = self._arrived, []
        return arrived

    def close(self) -> None:
        """Let the engine forget the request unless it has ended. May be called twice."""
        self._open_requests.close(self)

    def expire(self) -> None:
        """Fail the request because its deadline passed, and let the engine forget it, unless it has ended."""
        self._open_requests.expire(self)

    def put(self, output: Output) -> None:
        # Bounded: a request has at most max_tokens outputs.
        self._arrived.append(output)
        self._has_arrived.set()
        self.has_emitted = self.has_emitted or bool(output.token_ids)


class OpenRequests:
    """All open requests of one engine, by id. `now` gives monotonic seconds."""

    def __init__(self, *, now: Callable[[], float]) -> None:
        self._now = now
        self._ids = itertools.count(1)
        self._open: dict[int, OutputStream] = {}
        self._send: Send | None = None
        self._last_sign_s = 0.0
        self._end: Failure | None = None

    @property
    def num_open(self) -> int:
        return len(self._open)

    @property
    def silent_s(self) -> float:
        """Seconds since the engine's last message while requests are open; 0 without open requests."""
        return self._now() - self._last_sign_s if self._open else 0.0

    def submit(self, add: Add) -> OutputStream:
        """Send a request, or keep it until the engine is up; it fails if no engine will come. `add.id` is replaced."""
        if not self._open:
            self._last_sign_s = self._now()
        stream = OutputStream(self, msgspec.structs.replace(add, id=next(self._ids)))
        self._open[stream.add.id] = stream
        if self._end is not None:
            self._fail(stream, self._end)
        else:
            self._send_now(stream)
        return stream

    def close(self, stream: OutputStream) -> None:
        if self._open.pop(stream.add.id, None) is None:
            return
        if self._send is not None:
            self._send(Abort(stream.add.id))

    def expire(self, stream: OutputStream) -> None:
        """Fail a request whose deadline passed, and let the engine forget it."""
        if stream.add.id not in self._open:
            return
        self._fail(stream, _TOO_LATE)
        if self._send is not None:
            self._send(Abort(stream.add.id))

    def deliver(self, outputs: tuple[Output, ...]) -> None:
        """Deliver outputs to their requests; those of requests closed meanwhile are dropped."""
        for output in outputs:
            stream = self._open.get(output.id)
            if stream is None:
                continue
            if output.finish_reason is not None or output.error is not None:
                del self._open[output.id]
            stream.put(output)

    def note_sign_of_life(self) -> None:
        self._last_sign_s = self._now()

    def engine_is_up(self, send: Send) -> None:
        """Send waiting requests, replays first: they are the oldest."""
        self._send = send
        self.note_sign_of_life()
        for stream in self._open.values():
            self._send_now(stream)

    def engine_is_down(self, error: Failure) -> None:
        """Fail the requests that have shown output or were replayed before; keep the others for a replay."""
        self._send = None
        for stream in list(self._open.values()):
            if stream.has_emitted or stream.was_replayed:
                self._fail(stream, error)
            stream.was_replayed = stream.is_sent
            stream.is_sent = False

    def fail_all(self, error: Failure) -> None:
        """Fail all requests, because no engine will come back."""
        self._send, self._end = None, error
        for stream in list(self._open.values()):
            self._fail(stream, error)

    def _send_now(self, stream: OutputStream) -> None:
        if self._send is not None:
            self._send(stream.add)
            stream.is_sent = True

    def _fail(self, stream: OutputStream, error: Failure) -> None:
        del self._open[stream.add.id]
        stream.put(Output(stream.add.id, (), error=error))
