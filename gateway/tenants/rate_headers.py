"""`x-ratelimit-*`, as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from gateway.tenants.window import SlidingMinute


class Rate(msgspec.Struct, frozen=True):
    """A limit a minute, or none, and what was taken of it."""

    limit: int | None
    window: SlidingMinute


def rate_headers(unit: Literal["requests", "tokens"], rates: Sequence[Rate], now: float) -> list[tuple[bytes, bytes]]:
    """Of the rate that has the least left; none without one."""
    found = [(rate.limit - rate.window.taken(now), rate.limit, rate.window) for rate in rates if rate.limit is not None]
    if not found:
        return []
    left, limit, window = min(found, key=lambda each: each[:2])
    return [
        (f"x-ratelimit-limit-{unit}".encode(), str(limit).encode()),
        (f"x-ratelimit-remaining-{unit}".encode(), str(max(0, left)).encode()),
        (f"x-ratelimit-reset-{unit}".encode(), _duration(window.reset_s(now)).encode()),
    ]


def _duration(seconds: float) -> str:
    """`6m0s`, `12s`, `350ms`."""
    if seconds < 1:
        return f"{round(1000 * seconds)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
