"""Token counts on the wire."""

from __future__ import annotations

import msgspec


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    accepted_prediction_tokens: int = 0


class UsageObject(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one request over all of its choices; choices of one prompt count it once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
