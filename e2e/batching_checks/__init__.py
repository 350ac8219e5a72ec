"""The batching suite as plain functions, so that liars can be put to the same questions as the product.

Each `check_bN` raises AssertionError where the target falls short of the row with that number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from e2e.batching_checks.conservation import check_b5
from e2e.batching_checks.fairness import check_b8
from e2e.batching_checks.joining import check_b4
from e2e.batching_checks.prefixes import check_b10
from e2e.batching_checks.speed import check_b1
from e2e.harness.running_server import Known, Target

Check = Callable[[Target, Known], None]

CHECKS: Mapping[str, Check] = {
    "B1": check_b1,
    "B4": check_b4,
    "B5": check_b5,
    "B8": check_b8,
    "B10": check_b10,
}
"""Checks that need a single target only, the server of `e2e.harness.crowd`; the others need a control."""
