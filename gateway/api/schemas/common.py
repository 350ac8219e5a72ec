"""Small wire structs: errors, probes, models, token counts."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Error message that says how to fix it; `param` is a path such as `messages[0].content`."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorObject(msgspec.Struct, frozen=True):
    """Body of every error response, and of the last event of a stream that broke."""

    error: ErrorDetail


class Live(msgspec.Struct, frozen=True):
    """The event loop runs."""

    status: Literal["alive"] = "alive"


class Loading(msgspec.Struct, frozen=True, kw_only=True):
    """A model that cannot serve yet. `progress` is the part of loading that is done, 0 to 1."""

    name: str
    progress: float


class Fallback(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served, but not by the device or engine that was configured or is available."""

    name: str
    detail: str


class Readiness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tells whether requests can be served, which models are missing, and which run on a fallback.

    Models without a problem are not listed.
    """

    status: Literal["ready", "loading", "draining"]
    waiting_for: list[Loading]
    fallbacks: list[Fallback] = []
    """Left out when empty."""


class ModelObject(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | UnsetType = UNSET
    """Base model of an adapter."""


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelObject]


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
