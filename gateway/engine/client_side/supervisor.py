"""Keeps one engine running: starts it, listens, kills it when it hangs, restarts it with growing delays."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

import msgspec

from backends.errors import ModelError
from gateway.batching.messages import Add, EngineStats, Failure
from gateway.engine.client_side.connection import EngineConnection
from gateway.engine.client_side.open_requests import OpenRequests, OutputStream
from gateway.engine.client_side.step_histograms import StepHistograms
from gateway.engine.messages import Died, FromEngine, Load, LoadFailed, Progress, Ready, Stepped


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Delays double from `first_s` to `longest_s`; an engine that fails `most` times within `window_s` is given up."""

    first_s: float = 1.0
    longest_s: float = 60.0
    most: int = 5
    window_s: float = 600.0
    jitter: float = 0.2
    """Delays vary by this fraction, so that many engines do not restart at once."""


class RestartClock:
    """Records engine failures. `now` gives monotonic seconds."""

    def __init__(self, policy: RestartPolicy, *, now: Callable[[], float]) -> None:
        self._policy = policy
        self._now = now
        self._deaths: deque[float] = deque(maxlen=policy.most)

    def delay_after_death(self) -> float | None:
        """Record a failure. Returns seconds to wait before the next start, or None to give up."""
        policy, now = self._policy, self._now()
        self._deaths.append(now)
        recent = sum(now - death <= policy.window_s for death in self._deaths)
        if recent >= policy.most:
            return None
        delay = min(policy.first_s * 2.0 ** (recent - 1), policy.longest_s)
        return delay * random.uniform(1.0 - policy.jitter, 1.0 + policy.jitter)  # noqa: S311  no secret hangs on it


_log = logging.getLogger("gateway.engine")

_LOADING_PATIENCE = 10
"""Loading may be silent this many times longer than a step: files come from slow disks, graphs are compiled."""
_REAP_GRACE_S = 2.0
HANG_TIMEOUT_S = 30.0
"""Seconds; an engine with open requests that sends nothing for this long is killed."""


class RunningEngine(Protocol):
    """Started engine, wherever it runs. Its socket is the only channel to it."""

    def kill(self) -> None:
        """End it at once if that is possible."""
        ...

    async def stop(self, grace_s: float) -> str:
        """Wait for its end after its socket was closed; then force it. Returns how it ended."""
        ...


StartEngine = Callable[[str, socket.socket], Awaitable[RunningEngine]]
"""(name, the engine's end of the socket pair) → engine. Owns the socket. Raises `OSError`."""


class EngineState(msgspec.Struct, frozen=True, kw_only=True):
    """State of the engine. `detail` is for operators; in state `failed` it is the reason."""

    phase: Literal["loading", "running", "restarting", "failed", "closed"]
    detail: str = ""
    fraction: float = 0.0


class LoadRefused(Exception):
    """Raised when the engine rejected the model."""


class Supervisor:
    """Runs engines one after the other for the same `Load`. Created and used on one event loop."""

    def __init__(
        self,
        load: Load,
        *,
        name: str,
        start: StartEngine,
        hang_timeout_s: float = HANG_TIMEOUT_S,
        restarts: RestartPolicy = RestartPolicy(),
    ) -> None:
        self._load = load
        self._name = name
        self._start = start
        self._open_requests = OpenRequests(now=time.monotonic)
        self._hang_timeout_s = hang_timeout_s
        self._clock = RestartClock(restarts, now=time.monotonic)
        self._connection: EngineConnection | None = None
        self._heard_at = 0.0
        self._told = ""
        self._decided = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._engine: RunningEngine | None = None
        self.state = EngineState(phase="loading", detail="starting")
        self.facts: Ready | None = None
        """Facts of the last `Ready` message; kept while the engine restarts. None before."""
        self.stats: EngineStats | None = None
        """Gauges and totals of the engine's last step."""
        self.step_histograms = StepHistograms()
        self.num_restarts = 0

    @property
    def num_open(self) -> int:
        """Requests without their last output."""
        return self._open_requests.num_open

    @property
    def pid(self) -> int | None:
        """Process id of the engine, if it has one and runs."""
        return getattr(self._engine, "pid", None)

    def start(self) -> None:
        """Begin to load, in the background. Call it once."""
        self._task = asyncio.create_task(self._run(), name="engine supervisor")

    async def ready(self) -> Ready:
        """Wait until the model is loaded. Raises `ModelError` with the engine's message when it cannot be."""
        await self._decided.wait()
        if self.facts is None:
            raise ModelError(self.state.detail)
        return self.facts

    async def ended(self) -> None:
        """Wait until no engine will be started any more: given up or closed."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def submit(self, add: Add) -> OutputStream:
        """Send a request; `add.id` is replaced. Its stream gets outputs until exactly one last one.

        Only after `ready`. While the engine restarts, the request waits for the next one.
        """
        return self._open_requests.submit(add)

    async def aclose(self) -> None:
        """End the engine and wait until it is gone; open requests get `server_shutdown`. May be called twice."""
        if self._task is None:
            return
        self._end("closed", "server_shutdown", "the server is shutting down")
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        """Start engines until the first one rejects its model or too many failed. Cancel it to end the engine."""
        try:
            await self._restart_until_given_up()
        except Exception as error:  # process edge: without a supervisor no request would ever end
            _log.exception("engine %s: the supervisor failed", self._name)
            self._end("failed", "engine_failed", f"{type(error).__name__}: {error}")

    async def _restart_until_given_up(self) -> None:
        while True:
            try:
                reason = await self._live_once()
            except LoadRefused as refusal:
                reason = str(refusal)
                if self.facts is None:
                    self._end("failed", "engine_failed", reason)
                    return
            delay_s = self._clock.delay_after_death()
            if delay_s is None:
                self._end("failed", "engine_failed", f"the engine failed too often; last failure: {reason}")
                return
            _log.warning("engine %s ended: %s; restarting in %.1f s", self._name, reason, delay_s)
            self.state = EngineState(phase="restarting", detail=reason)
            self.num_restarts += 1
            await asyncio.sleep(delay_s)

    async def _live_once(self) -> str:
        """Run one engine from start to end. Returns how it ended; raises `LoadRefused`."""
        self.state = EngineState(phase="loading", detail="starting")
        ours, theirs = socket.socketpair()
        try:
            engine = await self._start(self._name, theirs)
        except OSError as error:
            ours.close()
            return f"cannot be started: {error}"
        except asyncio.CancelledError:
            ours.close()
            raise
        self._engine = engine
        self._told, self._heard_at = "", time.monotonic()
        self._connection = connection = await EngineConnection.open(ours, take=self._take)
        try:
            connection.send(self._load)
            told = await self._listen(connection, engine)
            self._lose_engine(told)
        finally:
            self._engine = None
            try:
                await connection.aclose()
            finally:  # whatever happened to the socket, the process ends
                ending = await engine.stop(_REAP_GRACE_S)
        return f"{told}; {ending}" if told else ending

    async def _listen(self, connection: EngineConnection, engine: RunningEngine) -> str:
        """Receive messages until the engine is gone. Returns its last message about its end, if any."""
        try:
            # Loading may take longer, and may end in the meantime: wait no longer than a step may be silent.
            while not await connection.ends_within(min(self._patience_s, self._hang_timeout_s)):
                if self._patience_s <= 0:
                    raise TimeoutError(f"no message for {self._longest_silence_s:g} s")
        except (TimeoutError, ValueError, msgspec.DecodeError) as error:
            engine.kill()
            return str(error)
        return self._told

    @property
    def _longest_silence_s(self) -> float:
        return self._hang_timeout_s * (_LOADING_PATIENCE if self.state.phase == "loading" else 1)

    @property
    def _patience_s(self) -> float:
        """Seconds that an engine with open requests may still be silent."""
        silent_s = time.monotonic() - self._heard_at if self.state.phase == "loading" else self._open_requests.silent_s
        return self._longest_silence_s - silent_s

    def _take(self, message: FromEngine) -> None:
        self._heard_at = time.monotonic()
        self._open_requests.note_sign_of_life()
        match message:
            case Stepped():
                self.step_histograms.note(message, self.stats)
                self.stats = message.stats
                self._open_requests.deliver(message.outputs)
            case Progress():
                self.state = EngineState(phase="loading", detail=message.stage, fraction=message.fraction)
            case Ready():
                self._become_ready(message)
            case LoadFailed():
                raise LoadRefused(message.message)
            case Died():
                self._told = message.message

    def _become_ready(self, ready: Ready) -> None:
        for fallback in ready.fallbacks:
            _log.warning("engine %s: fallback: %s", self._name, fallback)
        for note in ready.notes:
            _log.info("engine %s: %s", self._name, note)
        self.facts = ready
        self.stats = None
        self.state = EngineState(phase="running", fraction=1.0)
        self._decided.set()
        assert self._connection is not None, "a message came without a connection"
        self._open_requests.engine_is_up(self._connection.send)

    def _lose_engine(self, told: str) -> None:
        """Fail or keep the requests at once, before the process is reaped."""
        self.state = EngineState(phase="restarting", detail=told or "the engine process ended")
        self._open_requests.engine_is_down(Failure("engine_failed", told or "the engine process ended unexpectedly"))

    def _end(self, phase: Literal["failed", "closed"], code: str, detail: str) -> None:
        if phase == "failed":
            _log.error("engine %s: %s", self._name, detail)
        self.state = EngineState(phase=phase, detail=detail)
        self._decided.set()
        self._open_requests.fail_all(Failure(code, detail))
