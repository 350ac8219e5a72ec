"""Usage records of accepted requests."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["completed", "client_cancelled", "engine_failed", "shutdown"]


class RequestUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of one request. `id` is the response's, times are Unix seconds, tokens as in the response's `usage`.

    `started_at` is when the request arrived.
    """

    id: str
    request_id: str
    tenant_id: str
    key_id: str
    model: str
    """Name `model`, or `model:adapter` if an adapter was used."""
    state: State
    started_at: float
    ended_at: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    accepted_prediction_tokens: int

    @property
    def base(self) -> str:
        """Model without its adapter, to which limits and budgets of a model apply."""
        return self.model.partition(":")[0]


class UsageEntry(RequestUsage, frozen=True, kw_only=True):
    """Journal entry; the cost is by the price at that time, in billionths of the operator's currency."""

    cost_nanos: int = 0


class UsageRecord(RequestUsage, frozen=True, kw_only=True):
    """Record for the operator, with the cost in the operator's currency."""

    cost: float
