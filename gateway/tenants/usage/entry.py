"""What is written down of a request that was accepted."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["completed", "client_cancelled", "engine_failed", "shutdown"]


class UsageEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `id` is the answer's own, times are Unix seconds, tokens as in the answer's `usage`."""

    id: str
    request_id: str
    tenant_id: str
    key_id: str
    model: str
    state: State
    started_at: float
    ended_at: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    accepted_prediction_tokens: int
