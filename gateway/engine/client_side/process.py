"""Runs an engine in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from pathlib import Path

_log = logging.getLogger("gateway.engine")

_KEPT_LINES = 20
_READ_BYTES = 16 * 1024
_MAX_LINE = 2000
_SECRETS = frozenset(
    {
        "HOSTELRY_ADMIN_KEY",
        "HOSTELRY_API_KEY",
        "HOSTELRY_SERVE_ADMIN_KEY",
        "HOSTELRY_SERVE_API_KEY",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "PGPASSWORD",
    }
)


class ProcessEngine:
    """Running engine process. Its standard error goes to our log, the last lines are kept for the error."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self._name = name
        self._process = process
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader = asyncio.create_task(self._read_stderr())

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self, grace_s: float) -> str:
        """Wait for the process to end by itself, its socket being closed; kill it after `grace_s`.

        Returns how it ended, in a few words. The process is gone and reaped then.
        """
        # Not `asyncio.timeout`: up to Python 3.11.2 it never times out in a task that was cancelled before, as here.
        gone = asyncio.ensure_future(self._process.wait())
        await asyncio.wait((gone,), timeout=grace_s)
        if not gone.done():
            self.kill()
        await gone
        await self._reader
        return self._ending()

    def _ending(self) -> str:
        code = self._process.returncode
        ending = f"exit status {code}"
        if code is not None and code < 0:
            ending = f"killed by {signal.Signals(-code).name}"
        last = next((line for line in reversed(self._last_lines) if line.strip()), "")
        return f"{ending} ({last})" if last else ending

    async def _read_stderr(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        unfinished = b""
        while data := await stderr.read(_READ_BYTES):
            *lines, unfinished = (unfinished + data).split(b"\n")
            for line in lines:
                self._note(line)
            if len(unfinished) > _MAX_LINE:
                self._note(unfinished)
                unfinished = b""
        if unfinished:
            self._note(unfinished)

    def _note(self, line: bytes) -> None:
        text = line[:_MAX_LINE].decode("utf-8", "replace").rstrip()
        self._last_lines.append(text)
        _log.info("engine %s: %s", self._name, text)


async def start_process(name: str, theirs: socket.socket) -> ProcessEngine:
    """Start an engine that owns `theirs`, which is closed here. Raises `OSError` if no process can be created."""
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the working directory must not decide which modules are imported
            "-m",
            "gateway.engine.worker_side.worker",
            "--fd",
            str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            env=_environment(),
        )
    return ProcessEngine(name, process)


def _environment() -> dict[str, str]:
    """Our environment without secrets: an engine needs none, and it reads files of unknown origin.

    In a checkout that is not installed, its root comes first, so that the engine finds the same code.
    """
    ours = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    root = Path(__file__).resolve().parents[3]
    if root.name in ("site-packages", "dist-packages"):
        return ours
    inherited = ours.get("PYTHONPATH")
    return {**ours, "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else str(root)}
