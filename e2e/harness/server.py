"""A server process as a user starts it: log captured, port discovered, stopped with evidence of what it left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO
from urllib.parse import urlsplit

import msgspec
import psutil

ROOT = Path(__file__).resolve().parents[2]
HOSTELRY = (sys.executable, "-m", "gateway.cli", "serve")
LIARS = (sys.executable, "-m", "e2e.liars")

_LOG_TAIL = 60
GUARD_S = 120.0
"""Limit against hanging, on any machine; `e2e/timed` checks speed."""
alive: list[Server] = []
"""Servers that are running now; the conftest prints their logs below a failed test."""


class ServerFailed(Exception):
    """The process ended, or did not get as far as wanted in time. The message ends with its log."""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a stop."""

    status: int
    seconds: float
    orphans: tuple[str, ...]
    port_free: bool


class Server:
    """One process. `arguments` follow the command; the port is always 0 unless they say otherwise."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        command: Sequence[str] = HOSTELRY,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.arguments = [*command, *arguments]
        self._lines: list[str] = []
        self._announced: dict[str, str] = {}
        self._changed = threading.Condition()
        self.started = time.monotonic()
        self._announced_at: dict[str, float] = {}
        self.process = subprocess.Popen(
            self.arguments,
            cwd=ROOT,
            env={**_environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._readers = [self._reader("out", self.process.stdout), self._reader("err", self.process.stderr)]
        alive.append(self)

    def wait_listening(self, timeout_s: float = GUARD_S) -> str:
        """The URL, as soon as the server accepts connections; the model may still be loading."""
        return self._wait_announced(("listening", "ready"), timeout_s)

    def wait_ready(self, timeout_s: float = GUARD_S) -> str:
        """The URL, once the server has said that it can answer."""
        return self._wait_announced(("ready",), timeout_s)

    @property
    def start_s(self) -> float:
        """Seconds until it was ready: the time of a bare start on this machine with its present load."""
        with self._changed:
            return self._announced_at["ready"] - self.started

    def is_announced(self, word: str) -> bool:
        with self._changed:
            return word in self._announced

    def wait_exit(self, timeout_s: float = GUARD_S) -> int:
        """The status of a process that is expected to end by itself."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"still running after {timeout_s} s\n{self.log()}") from None
        self._close()
        return status

    def stop(self, timeout_s: float = GUARD_S) -> Stopped:
        """SIGTERM, and look for what stays. May be called after the process has ended."""
        family = self._family()
        url = self._announced.get("ready") or self._announced.get("listening")
        start = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = self._kill(family)
        seconds = time.monotonic() - start
        self._close()
        orphans = _still_alive(family)
        for process in orphans:
            process.kill()
        names = tuple(_describe(process) for process in orphans)
        return Stopped(status=status, seconds=seconds, orphans=names, port_free=url is None or is_port_free(url))

    def children(self) -> list[psutil.Process]:
        """Every process below this one."""
        return self._family()[1:]

    def resident_bytes(self) -> int:
        """Memory of the server and its engines."""
        return sum(int(process.memory_info().rss) for process in self._family())

    def log(self, tail: int = _LOG_TAIL) -> str:
        """The last lines of both outputs, each with its time since the start."""
        with self._changed:
            return "\n".join([" ".join(map(str, self.arguments[1:])), *self._lines[-tail:]])

    def output(self) -> str:
        """All that it wrote, both outputs."""
        with self._changed:
            return "\n".join(self._lines)

    def _wait_announced(self, words: tuple[str, ...], timeout_s: float) -> str:
        deadline = self.started + timeout_s
        with self._changed:
            while True:
                for word in words:
                    if word in self._announced:
                        return self._announced[word]
                if self.process.poll() is not None:
                    break
                if not self._changed.wait(min(0.2, deadline - time.monotonic())) and time.monotonic() > deadline:
                    break
        state = f"ended with status {self.process.poll()}" if self.process.poll() is not None else "is running"
        raise ServerFailed(f"no '{words[-1]}' line in {timeout_s} s; the process {state}\n{self.log()}")

    def _reader(self, name: str, stream: IO[str] | None) -> threading.Thread:
        assert stream is not None
        thread = threading.Thread(target=self._read, args=(name, stream), daemon=True)
        thread.start()
        return thread

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            self._take(name, line.rstrip("\n"))
        stream.close()

    def _take(self, name: str, line: str) -> None:
        words = line.split()
        with self._changed:
            self._lines.append(f"{time.monotonic() - self.started:7.2f} {name} {line}")
            if len(words) == 2 and words[0] in ("listening", "ready") and words[1].startswith("http"):
                self._announced[words[0]] = words[1]
                self._announced_at[words[0]] = time.monotonic()
            self._changed.notify_all()

    def _family(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _kill(self, family: list[psutil.Process]) -> int:
        for process in reversed(family):
            if process.is_running():
                process.kill()
        return self.process.wait(60)

    def _close(self) -> None:
        for reader in self._readers:
            reader.join(5)
        if self in alive:
            alive.remove(self)


def is_port_free(url: str) -> bool:
    """True if another process could listen there now."""
    address = urlsplit(url)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.hostname, address.port))
        except OSError:
            return False
    return True


def _environment() -> dict[str, str]:
    """The caller's, without settings of another hostelry; the checkout comes first on the path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HOSTELRY_", "OPENAI_"))}
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def _still_alive(family: list[psutil.Process]) -> list[psutil.Process]:
    _, remaining = psutil.wait_procs(family, timeout=1.0)
    return [process for process in remaining if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.Error:
        return str(process.pid)
