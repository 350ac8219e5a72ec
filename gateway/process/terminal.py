"""Log lines on standard error, and progress in the terminal while the server starts.

Everything for people goes to standard error; standard output carries only the `ready URL` line, for programs.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def configure_logs(level: str = "INFO") -> None:
    """Send our own records to standard error; libraries log from WARNING on."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for package in ("gateway", "adapters", "backends"):
        logging.getLogger(package).setLevel(level)


console = Console(stderr=True, highlight=False)


def machine_facts() -> str:
    """One line on the machine: `CPU 2 cores AVX-512, 23 GiB RAM`."""
    vector = _vector_unit()
    return f"CPU {os.cpu_count()} cores{' ' + vector if vector else ''}, {_memory_gib()} GiB RAM"


def _memory_gib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30


def _vector_unit() -> str:
    if platform.machine() in ("arm64", "aarch64"):
        return "NEON"
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return ""
    known = (("avx512_vnni", "AVX-512 VNNI"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
    return next((label for flag, label in known if flag in flags), "")


class LoadProgress:
    """Progress bar per model on a terminal; on a pipe one line per ten percent. Use as a context manager."""

    def __init__(self) -> None:
        self._bar = _progress_bar() if console.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, int] = {}

    def __enter__(self) -> LoadProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, name: str, fraction: float, stage: str) -> None:
        if self._bar is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bar.add_task(name, total=1.0, stage=stage)
            self._bar.update(self._tasks[name], completed=fraction, stage=stage)
            return
        tenth = int(fraction * 10)
        if self._printed.get(name, -1) < tenth:
            self._printed[name] = tenth
            console.print(f"loading {name} {tenth * 10}% {stage}")


def _progress_bar() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # in vain on a pipe

    return Progress(
        TextColumn("loading {task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[stage]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def curl_example(url: str, *, model: str, key: str) -> str:
    """Command that sends the server one question; `key` may be a shell expression."""
    return (
        f"curl {url}/v1/chat/completions \\\n"
        f'  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\\n'
        f'  -d \'{{"model": "{model}", "messages": '
        f'[{{"role": "user", "content": "What is the capital of France?"}}]}}\''
    )


def announce_ready(url: str, *, model: str, key_hint: str) -> None:
    """Print how to use the server for people, then its URL for programs (the only line on stdout)."""
    if console.is_terminal:
        from rich.panel import Panel

        console.print(Panel(f"API      {url}/v1\nkey      {key_hint}\nmetrics  {url}/metrics", expand=False))
    console.print(f"try:\n{curl_example(url, model=model, key=key_hint)}", soft_wrap=True, markup=False)
    sys.stdout.write(f"ready {url}\n")
    sys.stdout.flush()
