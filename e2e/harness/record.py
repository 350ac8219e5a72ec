"""Measured numbers of a run, one JSON file a suite in `e2e/results/`. Ratios gate; these absolutes only inform."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

from e2e.harness.nonce import SEED

RESULTS = Path(__file__).resolve().parents[1] / "results"

Number = float | int | str


def record(suite: str, name: str, **values: Number) -> None:
    """Put one measurement into the suite's file, replacing an older one of that name."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{suite}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"measurements": {}}
    known["machine"] = _machine()
    known["measurements"][name] = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seed": SEED, **values}
    path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _machine() -> dict[str, Number]:
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "load_1m": round(os.getloadavg()[0], 2),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
