"""Skips that may happen, each with its reason. Any other fails the run: a green one says what was verified.

What a machine lacks can be excused by HOSTELRY_TEST_WITHOUT (or `make test WITHOUT="postgresql network"`); CI excuses
nothing.
"""

from __future__ import annotations

import os
import re

WITHOUT = frozenset(os.environ.get("HOSTELRY_TEST_WITHOUT", "").split())
"""Names of `MISSING` that this machine is allowed to lack."""

ALWAYS = {
    r"not verified: runner (cuda|metal) is not present on this machine": "no such device here",
    r"not verified: needs CUDA.*": "no such device here",
    r"there is CUDA": "the test is about machines without",
    r"(interpreted kernels are not compiled|the interpreter runs already)": "a run inside another one",
    r"runner (torch|mlx) declares no LoRA slots on this machine": "adapters on every runner are not there yet",
    r"the runner declares (no (slot|paged) KV layout|every KV layout|LoRA|\w+=(\d+|False))": "optional in the contract",
    r"the runner does not declare \w+": "optional in the contract",
    r"the runner refuses \w+: .*": "a family that a runner says it cannot run",
}
"""Pattern of the whole reason → why it is allowed on every machine."""

MISSING = {
    "postgresql": r"not verified on PostgreSQL: it is not installed",
    "compiler": r".*(compiler|they were not built|switched off).*",
    "mlx": r".*runner mlx.*",
    "network": r"not verified: the package index cannot be reached",
}
"""Component that may be missing → pattern of the reason that tests give then."""


def is_allowed(reason: str) -> bool:
    """True if a test may be skipped for that reason on this machine."""
    patterns = [*ALWAYS, *(pattern for name, pattern in MISSING.items() if name in WITHOUT)]
    return any(re.fullmatch(pattern, reason) for pattern in patterns)
