"""Runs the whole product: socket, engines, application, signals, drain. Returns an exit status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from backends.errors import BackendError
from gateway import __version__
from gateway.config import Config, ModelConfig
from gateway.terminal import LoadProgress, announce_ready, console, machine_facts

logger = logging.getLogger(__name__)
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
