"""What tokens cost, in the operator's currency, counted in whole billionths of it so that sums are exact."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

NANOS = 10**9
"""Of one unit of the currency."""
_PICOS_A_NANO = 1000

Rate = Annotated[float, Meta(ge=0, le=10**6)]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a million tokens. Prompt tokens that came from the prefix cache cost `cached_input`, without one `input`."""

    input: Rate = 0.0
    cached_input: Rate | None = None
    output: Rate = 0.0

    @property
    def highest(self) -> float:
        return max(self.input, self.cached_input or 0.0, self.output)


FREE = Price()


def cost_nanos(price: Price, *, prompt_tokens: int, cached_tokens: int = 0, completion_tokens: int = 0) -> int:
    """Of one request, rounded to the nearest billionth. `cached_tokens` are among the prompt's."""
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
    """A millionth of a millionth of the currency, of one token."""
    return round(rate * 10**6)
