"""Days and months of budgets: of the calendar, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

import msgspec

Period = Literal["day", "month"]
DAY_S = 86400


class Span(msgspec.Struct, frozen=True):
    """From `begins`, inclusive, to `ends`, exclusive, in Unix seconds."""

    begins: int
    ends: int


def span_of(period: Period, moment: float) -> Span:
    """The day or month that a Unix time lies in."""
    return _span(period, int(moment // DAY_S))


@lru_cache(maxsize=8)
def _span(period: Period, day: int) -> Span:
    begins = datetime.fromtimestamp(day * DAY_S, UTC)
    if period == "day":
        return Span(day * DAY_S, (day + 1) * DAY_S)
    first = begins.replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    return Span(int(first.timestamp()), int(following.timestamp()))
