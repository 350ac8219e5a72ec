"""Runs our own server for the duration of a benchmark."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx
import msgspec

from gateway.bench.load import BenchFailed, Target

MODEL = "bench"


class OwnServer(msgspec.Struct, frozen=True):
    """Running server: its target, and its process."""

    target: Target
    pid: int

    def weight_bytes(self) -> int:
        """Bytes of weights in its engine, from `/metrics`."""
        text = httpx.get(self.target.url.removesuffix("/v1") + "/metrics", headers=self.target.headers).text
        found = re.search(r"^hostelry_engine_weight_bytes\{.*\} (\S+)$", text, re.MULTILINE)
        return int(float(found.group(1))) if found else 0

    def resident_bytes(self) -> int:
        """Memory of the server and its engine; 0 where the system has no `/proc`."""
        return sum(_resident(pid) for pid in (self.pid, *_children(self.pid)))


@contextmanager
def own_server(
    arguments: list[str], *, label: str = "hostelry", environment: Mapping[str, str] = MappingProxyType({})
) -> Generator[OwnServer]:
    """Run `hostelry serve` with these arguments on a free port of loopback. Raises `BenchFailed` if it does not start.

    `environment` is added to that of this process.
    """
    key = f"sk-ho-{secrets.token_urlsafe(24)}"
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "gateway.cli", "serve", "--port", "0", "--data-dir", directory, *arguments]
        variables = {**os.environ, "HOSTELRY_SERVE_API_KEY": key, **environment}
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables)  # noqa: S603 - our own
        try:
            url = _ready_url(server)
            yield OwnServer(Target(label=label, url=f"{url}/v1", model=MODEL, key=key), server.pid)
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)


def _ready_url(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("ready "):
            return line.split()[1]
    raise BenchFailed("the server did not start; see its messages above")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
