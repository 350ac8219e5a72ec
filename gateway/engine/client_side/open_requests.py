"""Requests that an engine owes an answer: each gets outputs until exactly one last one, whatever happens to engines."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import msgspec

from backends.errors import DeadlineExceeded
from gateway.batching.messages import Add, Failure, Output
from gateway.engine.messages import Abort, ToEngine

Send = Callable[[ToEngine], None]
_TOO_LATE = Failure(DeadlineExceeded.code, "the answer was not complete when the deadline of the request passed")


class OutputStream:
    """Outputs of one request, in order. Belongs to one consumer, which must `close` it."""

    def __init__(self, ledger: OpenRequests, add: Add) -> None:
        self._open_requests = ledger
        self._arrived: list[Output] = []
        self._has_arrived = asyncio.Event()
        self.add = add
        self.has_emitted = False
        self.is_sent = False
        self.was_replayed = False

    async def get(self) -> list[Output]:
        """Everything that arrived since the last call, at least one. Not to be called after the last output."""
        await self._has_arrived.wait()
        self._has_arrived.clear()
        arrived, self._arrived = self._arrived, []
        return arrived

    def close(self) -> None:
        """Tell the engine to forget the request unless it has ended. May be called twice."""
        self._open_requests.close(self)

    def expire(self) -> None:
        """Its time is over: the engine forgets it, and it fails, unless it has ended."""
        self._open_requests.expire(self)

    def put(self, output: Output) -> None:
        # Bounded by nature: a request has at most max_tokens outputs.
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
        """How long the engine has owed an answer without any sign of life."""
        return self._now() - self._last_sign_s if self._open else 0.0

    def submit(self, add: Add) -> OutputStream:
        """Send a request, or keep it until the engine is up; if none will come it fails. `add.id` is replaced."""
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
        """Fail a request whose deadline passed, and tell the engine to forget it."""
        if stream.add.id not in self._open:
            return
        self._fail(stream, _TOO_LATE)
        if self._send is not None:
            self._send(Abort(stream.add.id))

    def deliver(self, outputs: tuple[Output, ...]) -> None:
        """Hand outputs to their requests; those of requests closed meanwhile are dropped."""
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
        """Send what waits, replays first: they are the oldest."""
        self._send = send
        self.note_sign_of_life()
        for stream in self._open.values():
            self._send_now(stream)

    def engine_is_down(self, error: Failure) -> None:
        """Fail the requests that have shown something or were replayed before; keep the others for a replay."""
        self._send = None
        for stream in list(self._open.values()):
            if stream.has_emitted or stream.was_replayed:
                self._fail(stream, error)
            stream.was_replayed = stream.is_sent
            stream.is_sent = False

    def fail_all(self, error: Failure) -> None:
        """No engine will come back."""
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
