"""Engines over the fake runner, and requests for them."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from backends.api import Runner
from backends.generation import Delta, Done, Event, Failed, GenerateRequest, Prompt, Sampling, Share, TokenPrompt
from backends.testing.fake import FakeFaults, FakeRunner
from gateway.batching.messages import Add, Output
from gateway.engine.backend import EngineBackend, start_engine_backend
from gateway.engine.client_side.open_requests import OutputStream
from gateway.engine.client_side.process import start_process
from gateway.engine.client_side.supervisor import RestartPolicy, StartEngine, Supervisor
from gateway.engine.config import EngineConfig
from gateway.engine.messages import Load
from gateway.engine.worker_side.inline import start_inline
from gateway.engine.worker_side.loading import RunnerFactory

GREEDY = Sampling(temperature=0.0)
SOON = RestartPolicy(first_s=0.01, longest_s=0.01)
PATIENCE_S = 60.0
"""A test that waits longer has failed."""
FOREVER = 400_000
"""More tokens than any test waits for."""


def make_load(
    model_path: Path,
    *,
    max_batch: int = 4,
    max_context: int | None = None,
    max_waiting: int = 8,
    max_waiting_per_tenant: int | None = None,
    ttft_target_s: float = 30.0,
) -> Load:
    engine = EngineConfig(
        max_batch=max_batch,
        max_context=max_context,
        max_step_tokens=64,
        max_waiting=max_waiting,
        max_waiting_per_tenant=max_waiting if max_waiting_per_tenant is None else max_waiting_per_tenant,
        ttft_target_s=ttft_target_s,
        kv_cache_mb=1024,
        threads=1,
    )
    return Load(model_path=str(model_path), runner="fake", engine=engine)


def make_add(*, prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int = 8, seed: int = 0) -> Add:
    return Add(id=0, token_ids=prompt, max_tokens=max_tokens, sampling=GREEDY, seed=seed)


def faulty(faults: FakeFaults) -> RunnerFactory:
    """Runner factory in place of the registry, with a runner that fails as ordered."""

    def create(name: str, *, threads: int, exact: bool, device: str) -> Runner:
        return FakeRunner(faults)

    return create


def inline(faults: FakeFaults | None = None) -> StartEngine:
    return functools.partial(start_inline, create=faulty(faults or FakeFaults()))


@asynccontextmanager
async def running_client(
    load: Load,
    *,
    start: StartEngine = start_process,
    hang_timeout_s: float = 30.0,
    restarts: RestartPolicy = SOON,
) -> AsyncGenerator[Supervisor]:
    client = Supervisor(load, name="fake", start=start, hang_timeout_s=hang_timeout_s, restarts=restarts)
    client.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def running_backend(load: Load, *, start: StartEngine) -> AsyncGenerator[EngineBackend]:
    backend = await start_engine_backend(load, name="fake", start=start)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await backend.ready()
            yield backend
    finally:
        await backend.aclose()


async def read_to_end(stream: OutputStream) -> list[Output]:
    outputs: list[Output] = []
    while not outputs or (outputs[-1].finish_reason is None and outputs[-1].error is None):
        outputs += await stream.get()
    return outputs


def tokens_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def make_request(
    prompt: Prompt | None = None,
    *,
    max_tokens: int | None = 8,
    sampling: Sampling = GREEDY,
    stop: tuple[str, ...] = (),
    adapter: str | None = None,
    deadline_s: float | None = None,
    tenant: str = "default",
) -> GenerateRequest:
    return GenerateRequest(
        request_id="r",
        prompt=prompt or TokenPrompt((1, 2, 3)),
        sampling=sampling,
        max_tokens=max_tokens,
        stop=stop,
        ignore_eos=True,
        adapter=adapter,
        deadline_at=None if deadline_s is None else time.monotonic() + deadline_s,
        share=Share(tenant=tenant),
    )


async def collect(backend: EngineBackend, request: GenerateRequest) -> list[Event]:
    return [event async for event in backend.generate(request)]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def end_of(events: list[Event]) -> Done | Failed:
    assert isinstance(events[-1], Done | Failed)
    assert not any(isinstance(event, Done | Failed) for event in events[:-1])
    return events[-1]
