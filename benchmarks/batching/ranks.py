"""Tests by ranks if two samples come from one distribution."""

from __future__ import annotations

import math


def mann_whitney_p(first: list[float], second: list[float]) -> float:
    """Two-sided p of the rank-sum test (Mann and Whitney, 1947), by the normal approximation with continuity.

    Meant for a dozen or more values each, without many ties.
    """
    wins = sum((a > b) + 0.5 * (a == b) for a in first for b in second)
    product = len(first) * len(second)
    deviation = math.sqrt(product * (len(first) + len(second) + 1) / 12)
    distance = max(0.0, abs(wins - product / 2) - 0.5)
    return math.erfc(distance / deviation / math.sqrt(2))
