"""Structs of `/v1/completions`: requests and responses, whole and in chunks. Names are OpenAI's."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.api.schemas.bounds import (
    Deadline,
    LogitBias,
    MinP,
    NumChoices,
    Penalty,
    RepetitionPenalty,
    Seed,
    Speculative,
    StopStrings,
    StreamOptions,
    Temperature,
    TokenId,
    TopK,
    TopP,
)
from gateway.api.schemas.common import UsageObject

TokenIds = Annotated[list[TokenId], Meta(min_length=1, max_length=2**20)]
PromptItem = str | TokenId | TokenIds
PromptField = str | Annotated[list[PromptItem], Meta(min_length=1, max_length=2**20)]
"""A text, a list of texts, one list of token ids, or a list of those; never mixed."""


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One or more texts to continue. `null` means the default everywhere but in `model` and `prompt`."""

    model: str
    prompt: PromptField
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: NumChoices | None = None
    best_of: NumChoices | None = None
    stop: StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    ignore_eos: bool | None = None
    speculative: Speculative | None = None
    deadline_s: Deadline | None = None
    user: str | None = None


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Parallel lists over tokens. `text_offset` counts characters from the start of the choice's text.

    With `echo`, the prompt's tokens come first; nothing predicts the first of them, whose entries are null.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole response, or one event of a stream (then `usage` is as in chat chunks)."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageObject | msgspec.UnsetType | None = msgspec.UNSET
