"""The gateway's handle on one engine: submit requests, know its state, close it."""

from __future__ import annotations

import asyncio
import time

from backends.errors import ModelError
from gateway.engine.client_side.open_requests import Ledger, OutputStream
from gateway.engine.client_side.process import start_process
from gateway.engine.client_side.step_histograms import Tallies
from gateway.engine.client_side.supervisor import EngineState, RestartPolicy, StartEngine, Supervisor
from gateway.engine.messages import Add, EngineStats, Load, Ready


class EngineClient:
    """Owns the engine and everything that watches it. Made and used on one event loop."""

    def __init__(
        self,
        load: Load,
        *,
        name: str,
        start: StartEngine = start_process,
        hang_timeout_s: float = 30.0,
        restarts: RestartPolicy | None = None,
    ) -> None:
        self._ledger = Ledger(now=time.monotonic)
        self._supervisor = Supervisor(
            load,
            name=name,
            start=start,
            ledger=self._ledger,
            hang_timeout_s=hang_timeout_s,
            policy=restarts or RestartPolicy(),
            now=time.monotonic,
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load, in the background. To be called once."""
        self._task = asyncio.create_task(self._supervisor.run(), name="engine supervisor")

    async def ready(self) -> Ready:
        """Wait until the model is loaded. Raises `ModelError` when it cannot be, with the engine's own words."""
        await self._supervisor.wait_decided()
        if self._supervisor.ready is None:
            raise ModelError(self.state.detail)
        return self._supervisor.ready

    async def ended(self) -> None:
        """Wait until no engine will be started any more: given up or closed."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    @property
    def state(self) -> EngineState:
        return self._supervisor.state

    @property
    def facts(self) -> Ready | None:
        """What the engine said when it became ready; kept while it restarts. None before."""
        return self._supervisor.ready

    @property
    def stats(self) -> EngineStats | None:
        return self._supervisor.stats

    @property
    def tallies(self) -> Tallies:
        return self._supervisor.tallies

    @property
    def num_open(self) -> int:
        """Requests without their last output."""
        return self._ledger.num_open

    @property
    def num_restarts(self) -> int:
        return self._supervisor.num_restarts

    @property
    def pid(self) -> int | None:
        """Process id of the engine, if it has one and runs."""
        return getattr(self._supervisor.engine, "pid", None)

    def submit(self, add: Add) -> OutputStream:
        """Send a request; `add.id` is replaced. Its stream gets outputs until exactly one last one.

        Only after `ready`. While the engine restarts, the request waits for the next one.
        """
        return self._ledger.submit(add)

    async def aclose(self) -> None:
        """End the engine and wait until it is gone; open requests get `server_shutdown`. May be called twice."""
        if self._task is None:
            return
        self._supervisor.announce_shutdown()
        self._task.cancel()
        await asyncio.wait((self._task,))
