"""Runs the whole product: socket, engines, application, signals, drain. Returns an exit status."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from backends.errors import BackendError
from gateway import __version__
from gateway.config import AdapterConfig, Config, ModelConfig
from gateway.engine.backend import EngineBackend, start_engine_backend
from gateway.engine.messages import Load
from gateway.errors import ConfigError
from gateway.models.hub import DownloadProgress, resolve_model
from gateway.process.drain import Drain
from gateway.process.gc_tuning import freeze_objects, gc_paused
from gateway.process.listener import PortInUse, bind, url_of
from gateway.process.terminal import LoadProgress, announce_ready, configure_logs, console, machine_facts
from gateway.routing import Models, ServedModel
from gateway.tenants.store.errors import StoreCorrupt, StoreError

if TYPE_CHECKING:
    from gateway.tenants.service import Tenancy

EXIT_OK, EXIT_FAILED, EXIT_STORE_CORRUPT = 0, 1, 3
_PROGRESS_INTERVAL_S = 0.1
_STORE = ("sqlalchemy", "sqlalchemy.ext.asyncio", "gateway.tenants.service")
_HTTP = ("litestar", "gateway.app", "gateway.app")
"""Modules to import late, in parts, so that a failed engine ends the start between any two."""


def run(config: Config, *, source: str | None, data_dir: Path, key_hint: str, admin_key: str) -> int:
    """Serve until a signal. 0 after a clean drain, 1 when start-up fails, 3 when the store is damaged."""
    configure_logs()
    config_name = source or "none (using defaults)"
    console.print(f"hostelry {__version__}  {machine_facts()}  config: {config_name}", soft_wrap=True)
    try:
        listener = bind(config.server.host, config.server.port)
        return uvloop.run(_serve(config, listener, data_dir=data_dir, key_hint=key_hint, admin_key=admin_key))
    except (PortInUse, ConfigError, BackendError, StoreError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return EXIT_STORE_CORRUPT if isinstance(error, StoreCorrupt) else EXIT_FAILED


async def _serve(config: Config, listener: socket.socket, *, data_dir: Path, key_hint: str, admin_key: str) -> int:
    url = url_of(listener)
    models, stop = Models(expected=[model.name or model.path for model in config.models]), Shutdown()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_engines(models))
        loading = await stack.enter_async_context(_in_a_task(_load_all(config, models, data_dir=data_dir)))
        with gc_paused():
            await _import_late(_STORE, loading)
            http = await stack.enter_async_context(_in_a_task(_import_late(_HTTP, loading)))
            tenancy = await stack.enter_async_context(_open_tenancy(config, data_dir=data_dir, admin_key=admin_key))
            await http
        from gateway.app import answering, make_services

        await stack.enter_async_context(_engines(models))  # ends before the store, which records its usage
        services = make_services(config.server, models, tenancy, stop.drain)
        await stack.enter_async_context(answering(services, listener))
        stop.on_signals()
        console.print(f"listening {url}", soft_wrap=True)
        await stop.unless_sooner(loading)
        if not stop.wanted:
            freeze_objects()
            announce_ready(url, model=next(iter(models)).name, key_hint=key_hint)
        await stop.wait(timeout_s=config.server.drain_timeout_s)
    return EXIT_OK


class Shutdown:
    """The first signal drains, the second one ends at once."""

    def __init__(self) -> None:
        self.drain = Drain()
        self._first = asyncio.Event()
        self._second = asyncio.Event()

    @property
    def wanted(self) -> bool:
        return self._first.is_set()

    def on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)

    async def unless_sooner(self, task: asyncio.Task[None]) -> None:
        """Wait for the task, or cancel it when a signal comes first. What it raises is raised."""
        signalled = asyncio.create_task(self._first.wait())
        await asyncio.wait((task, signalled), return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return None

    async def wait(self, *, timeout_s: float) -> None:
        """Return when a signal came and the running requests have ended, or their time is over."""
        await self._first.wait()
        self.drain.close()
        if self.drain.num_open:
            console.print(
                f"draining {self.drain.num_open} requests (at most {timeout_s:.0f} s, Ctrl-C again to stop now)"
            )
        finished = [asyncio.create_task(self.drain.wait_empty()), asyncio.create_task(self._second.wait())]
        await asyncio.wait(finished, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in finished:
            task.cancel()

    def _signalled(self) -> None:
        (self._second if self._first.is_set() else self._first).set()


async def _import_late(names: Iterable[str], loading: asyncio.Task[None]) -> None:
    """Import modules off the event loop, so that engines start meanwhile. Raises what `loading` does."""
    for name in names:
        imported = asyncio.create_task(asyncio.to_thread(import_module, name))
        await asyncio.wait((imported, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
        await imported


@contextlib.asynccontextmanager
async def _in_a_task(work: Coroutine[None, None, None]) -> AsyncGenerator[asyncio.Task[None]]:
    """Run work in a task that does not outlive the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _open_tenancy(config: Config, *, data_dir: Path, admin_key: str) -> AbstractAsyncContextManager[Tenancy]:
    from gateway.tenants.service import open_tenancy  # `_STORE`

    return open_tenancy(
        config.tenants, url=config.database, data_dir=data_dir, admin_key=admin_key, keep_days=config.usage.keep_days
    )


async def _load_all(config: Config, models: Models, *, data_dir: Path) -> None:
    """Start all engines and wait until every one can serve. Raises `BackendError` when one never will."""
    with LoadProgress() as progress:
        backends = [
            await _start(each, _adapters_of(each, config), models, data_dir=data_dir, progress=progress)
            for each in config.models
        ]
        watch = asyncio.create_task(_show_progress(models, progress))
        try:
            for backend in backends:
                await backend.ready()
        finally:
            watch.cancel()
    for model, backend in zip(models, backends, strict=True):
        _print_facts(model.name, backend)


def _adapters_of(model: ModelConfig, config: Config) -> tuple[AdapterConfig, ...]:
    return tuple(adapter for adapter in config.adapters if adapter.base == model.name)


def _model_file(config: ModelConfig, *, data_dir: Path, tell: DownloadProgress) -> Path:
    """Path of the model, downloaded and quantized if need be, however long that takes. Raises `ModelError`."""
    path = resolve_model(config.path, cache_dir=data_dir / "hub", progress=tell)
    if config.quantize is None:
        return path
    from gateway.models.quantized import quantized_model  # rarely needed

    return quantized_model(path, format=config.quantize, directory=data_dir / "quantized", progress=tell)


async def _start(
    config: ModelConfig,
    adapters: tuple[AdapterConfig, ...],
    models: Models,
    *,
    data_dir: Path,
    progress: LoadProgress,
) -> EngineBackend:
    name = config.name or config.path
    path = await asyncio.to_thread(
        _model_file, config, data_dir=data_dir, tell=lambda part, what: progress.update(name, part, what)
    )
    load = Load(
        model_path=str(path),
        runner=config.backend,
        engine=config.engine,
        adapters=adapters,
    )
    backend = await start_engine_backend(load, name=name)
    served = ServedModel(
        name=name,
        backend=backend,
        stats=backend.stats,
        facts=lambda: backend.facts,
        step_histograms=backend.step_histograms,
        price=config.price,
        adapters=adapters,
    )
    models.add(served)
    return backend


async def _show_progress(models: Models, progress: LoadProgress) -> None:
    while True:
        for model in models:
            health = model.backend.health()
            progress.update(model.name, 1.0 if health.ready else health.progress, health.detail)
        await asyncio.sleep(_PROGRESS_INTERVAL_S)


def _print_facts(name: str, backend: EngineBackend) -> None:
    facts = backend.facts
    assert facts is not None
    console.print(
        f"{name}: {facts.weight_bytes / 1e6:.0f} MB of weights on {facts.runner}, {facts.device}, "
        f"{facts.max_sequences} sequences of {facts.max_context} tokens",
        soft_wrap=True,
    )
    if facts.reason:
        console.print(f"{name}: backend auto chose {facts.runner}: {facts.reason}", soft_wrap=True)
    for fallback in facts.fallbacks:
        console.print(f"{name}: fallback: {fallback}", style="bold red", soft_wrap=True)
    for note in facts.notes:
        console.print(f"{name}: {note}", style="yellow", soft_wrap=True)


@contextlib.asynccontextmanager
async def _engines(models: Models) -> AsyncGenerator[None]:
    """Close every engine that was started by the end of the block, whatever happens in between."""
    try:
        yield
    finally:
        await asyncio.gather(*(model.backend.aclose() for model in models))
