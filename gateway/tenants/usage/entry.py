"""What is written down of a request that was accepted."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["completed", "client_cancelled", "engine_failed", "shutdown"]


class RequestUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `id` is the answer's own, times are Unix seconds, tokens as in the answer's `usage`.

    `started_at` is when the request arrived.
    """

    id: str
    request_id: str
    tenant_id: str
    key_id: str
    model: str
    """`model`, or `model:adapter` if one answered."""
    state: State
    started_at: float
    ended_at: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    accepted_prediction_tokens: int

    @property
    def base(self) -> str:
        """The model without its adapter: what limits and budgets of a model are of."""
        return self.model.partition(":")[0]


class UsageEntry(RequestUsage, frozen=True, kw_only=True):
    """As it is written down; the cost is what the price was then, in billionths of the operator's currency."""

    cost_nanos: int = 0


class UsageRecord(RequestUsage, frozen=True, kw_only=True):
    """As the operator sees it, with the cost in the operator's currency."""

    cost: float
