"""The HTTP side of the server: services and application, answering on one socket.

`gateway.server` imports it late: its libraries take most of a start, and engines load meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator

import uvicorn

from gateway.api.hosts import hosts_of
from gateway.app import create_app
from gateway.config import ServerConfig
from gateway.corked_http import CorkedProtocol
from gateway.drain import Drain
from gateway.metrics import Metrics
from gateway.routing import Models
from gateway.services import Services
from gateway.tenants.opening import Tenancy
from gateway.tenants.wrong_keys import WrongKeys

_SHUTDOWN_GRACE_S = 3


def make_services(config: ServerConfig, models: Models, tenancy: Tenancy, drain: Drain) -> Services:
    """Everything that routes need, over an open store."""
    return Services(
        models=models,
        directory=tenancy.directory,
        office=tenancy.office,
        bookkeeper=tenancy.bookkeeper,
        limiter=tenancy.limiter,
        metrics=Metrics(),
        drain=drain,
        wrong_keys=WrongKeys(per_minute=config.max_wrong_keys_per_minute),
        hosts=hosts_of(config.host, config.allowed_hosts),
        max_body_bytes=config.max_body_bytes,
    )


@contextlib.asynccontextmanager
async def answering(services: Services, listener: socket.socket) -> AsyncGenerator[None]:
    """Answer HTTP on the socket until the block ends."""
    config = uvicorn.Config(
        create_app(services),
        http=CorkedProtocol,
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # or a client's X-Forwarded-For would be its address
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: when to stop is decided by the caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
