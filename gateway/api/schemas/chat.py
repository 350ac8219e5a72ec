"""Structs of `/v1/chat/completions`: requests, responses, chunks and WebSocket frames. Names are OpenAI's."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.api.schemas.bounds import (
    Deadline,
    LogitBias,
    MaxTokens,
    MinP,
    NumChoices,
    Penalty,
    RepetitionPenalty,
    RequestMetadata,
    Seed,
    ServiceTier,
    Speculative,
    StopStrings,
    StreamOptions,
    Temperature,
    TopK,
    TopP,
)
from gateway.api.schemas.common import UsageObject

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]


def _absent() -> msgspec.Raw:
    """A default that the JSON schema leaves out."""
    return msgspec.Raw(b"null")


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message. This server supports the type `text` only."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message. The roles `tool` and `function` and the fields after `name` are recognised and rejected."""

    role: Role
    content: str | Annotated[list[ContentPart], Meta(min_length=1, max_length=1024)] | None = None
    name: str | None = None
    tool_calls: msgspec.Raw = msgspec.field(default_factory=_absent)
    function_call: msgspec.Raw = msgspec.field(default_factory=_absent)
    audio: msgspec.Raw = msgspec.field(default_factory=_absent)


class ChatCompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A chat to continue. `null` means the default everywhere but in `model` and `messages`."""

    model: str
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=4096)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: NumChoices | None = None
    stop: StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    ignore_eos: bool | None = None
    speculative: Speculative | None = None
    deadline_s: Deadline | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: RequestMetadata | None = None
    service_tier: ServiceTier | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobObject(msgspec.Struct, frozen=True, kw_only=True):
    r"""One generated token and its best alternatives; `token` reads `bytes:\xe2` where a character is split."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[TokenLogprobObject]
    refusal: None = None


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole response."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageObject


class ChatDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a stream. `usage` is there only if `stream_options.include_usage` was set, null until the last."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: UsageObject | msgspec.UnsetType | None = msgspec.UNSET


RequestId = Annotated[str, Meta(min_length=1, max_length=128)]


class SocketRequest(ChatCompletionRequest, frozen=True, kw_only=True):
    """A chat request with a name of the client's choice; one is made if it is absent."""

    type: Literal["request"] = "request"
    request_id: RequestId | None = None


class CancelFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Ends a running request of this socket."""

    type: Literal["cancel"]
    request_id: RequestId


class EndFrame(msgspec.Struct, frozen=True, kw_only=True):
    """The last frame of a request that completed or was cancelled."""

    type: Literal["done", "cancelled"]
    request_id: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Common fields of incoming frames; decoded first, so that an error can name its request."""

    type: Literal["request", "cancel"] = "request"
    request_id: RequestId | None = None
