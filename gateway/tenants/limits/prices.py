"""Prices of tokens, in whole billionths of the operator's currency, and the UTC days and months of budgets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Period = Literal["day", "month"]
DAY_S = 86400


class BudgetPeriod(msgspec.Struct, frozen=True):
    """Period from `begins`, inclusive, to `ends`, exclusive, in Unix seconds."""

    begins: int
    ends: int


def span_of(period: Period, moment: float) -> BudgetPeriod:
    """Day or month that contains a Unix time."""
    return _span(period, int(moment // DAY_S))


@lru_cache(maxsize=8)
def _span(period: Period, day: int) -> BudgetPeriod:
    begins = datetime.fromtimestamp(day * DAY_S, UTC)
    if period == "day":
        return BudgetPeriod(day * DAY_S, (day + 1) * DAY_S)
    first = begins.replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    return BudgetPeriod(int(first.timestamp()), int(following.timestamp()))


NANOS = 10**9
"""Billionths in one unit of the currency."""
_PICOS_A_NANO = 1000

TokenRate = Annotated[float, Meta(ge=0, le=10**6)]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Price of a million tokens. Prompt tokens from the prefix cache cost `cached_input`, or else `input`."""

    input: TokenRate = 0.0
    cached_input: TokenRate | None = None
    output: TokenRate = 0.0

    @property
    def highest(self) -> float:
        return max(self.input, self.cached_input or 0.0, self.output)


FREE = Price()


def cost_nanos(price: Price, *, prompt_tokens: int, cached_tokens: int = 0, completion_tokens: int = 0) -> int:
    """Cost of one request, rounded to the nearest billionth. `cached_tokens` are among the prompt's."""
    if price == FREE:
        return 0
    cached = price.input if price.cached_input is None else price.cached_input
    picos = (
        (prompt_tokens - cached_tokens) * _picos(price.input)
        + cached_tokens * _picos(cached)
        + completion_tokens * _picos(price.output)
    )
    return (picos + _PICOS_A_NANO // 2) // _PICOS_A_NANO


def _picos(rate: float) -> int:
    """Cost of one token in trillionths of the currency."""
    return round(rate * 10**6)
