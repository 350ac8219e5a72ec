"""Runs the same engine in a thread: for tests and very small machines. A crash of native code ends the gateway, too."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from backends.registry import create_runner
from gateway.engine.worker_side.loading import RunnerFactory
from gateway.engine.worker_side.worker import EXIT_OK, serve


class InlineEngine:
    """Running engine thread. It cannot be killed; it ends at the end of a step once its socket is closed."""

    def __init__(self, theirs: socket.socket, create: RunnerFactory) -> None:
        self._theirs = theirs
        self._create = create
        self._status = EXIT_OK
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="hostelry-engine", daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """Do nothing: a thread cannot be ended from outside; it ends when the socket is closed."""

    async def stop(self, grace_s: float) -> str:
        """Wait until the thread ends, at most `grace_s`. Returns how it ended."""
        ended = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait((ended,), timeout=grace_s)  # as in `process`
        if not ended.done():
            ended.cancel()
            return "still running a step"
        self._thread.join()
        return f"exit status {self._status}"

    def _run(self) -> None:
        try:
            self._status = serve(self._theirs, create_runner=self._create)
        finally:
            with contextlib.suppress(RuntimeError):  # the event loop gave up waiting and is closed
                self._loop.call_soon_threadsafe(self._ended.set)


async def start_inline(name: str, theirs: socket.socket, *, create: RunnerFactory = create_runner) -> InlineEngine:
    """Start an engine thread that owns `theirs`. `name` is for symmetry with `start_process`."""
    del name
    return InlineEngine(theirs, create)
