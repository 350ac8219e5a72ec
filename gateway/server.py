"""Runs the whole product: socket, engines, application, signals, drain. Returns an exit status."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvicorn
import uvloop

from backends.errors import BackendError
from gateway import __version__
from gateway.app import Services, create_app
from gateway.config import Config, ModelConfig
from gateway.drain import Drain
from gateway.engine.backend import EngineBackend, EngineOptions, start_engine_backend
from gateway.hub import resolve_model
from gateway.logs import configure_logs
from gateway.metrics import Metrics
from gateway.port import PortInUse, bind
from gateway.routing import Models, ServedModel
from gateway.tenants.keys import Tenants
from gateway.terminal import LoadProgress, announce_ready, console, machine_facts

EXIT_OK, EXIT_FAILED = 0, 1
