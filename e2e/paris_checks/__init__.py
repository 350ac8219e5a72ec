"""The Paris suite as plain functions, so that liars can be put to the same questions as the product.

Each `check_pN` raises AssertionError where the target falls short of the row with that number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from e2e.harness.running_server import Known, Target
from e2e.paris_checks.access import check_p9
from e2e.paris_checks.accounting import check_p8
from e2e.paris_checks.answers import check_p1, check_p2, check_p3, check_p4
from e2e.paris_checks.clients import check_p11
from e2e.paris_checks.determinism import check_p10
from e2e.paris_checks.limits import check_p7
from e2e.paris_checks.streaming import check_p6

Check = Callable[[Target, Known], None]

CHECKS: Mapping[str, Check] = {
    "P1": check_p1,
    "P2": check_p2,
    "P3": check_p3,
    "P4": check_p4,
    "P6": check_p6,
    "P7": check_p7,
    "P8": check_p8,
    "P9": check_p9,
    "P10": check_p10,
    "P11": check_p11,
}
"""P5 needs its own servers; see `broken`."""
