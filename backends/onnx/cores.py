"""How many threads are worth having."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def physical_cores() -> int:
    """Physical cores that this process may use, at least 1; logical ones where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):  # only Linux has it
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    return len({_siblings(cpu) for cpu in usable}) or 1


def _siblings(cpu: int) -> str:
    """Names the core of a logical processor."""
    try:
        return Path(_TOPOLOGY.format(cpu)).read_text().strip()
    except OSError:
        return str(cpu)
