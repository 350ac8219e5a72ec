"""Where a result goes, and on what machine it was taken."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from datetime import date
from pathlib import Path

from gateway.terminal import machine_facts

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, numbers: dict[str, object], *, command: str) -> Path:
    """Write `results/{name}.json`: command, day, machine, versions and the numbers; print the numbers."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"command": command, "date": date.today().isoformat(), "machine": facts(), "numbers": numbers}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(numbers, indent=2))
    return path


def facts() -> dict[str, str]:
    """What a reader needs to judge a number."""
    versions = {name: _version(name) for name in ("onnxruntime", "numpy", "litestar", "uvicorn")}
    return {
        "hardware": machine_facts(),
        "load_before": f"{os.getloadavg()[0]:.2f}",
        "system": platform.platform(),
        "python": sys.version.split()[0],
        **versions,
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
