"""Frames of the WebSocket on `/v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.api.schemas.chat import ChatCompletionRequest

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
    """The last frame of a request that ended well, or was cancelled."""

    type: Literal["done", "cancelled"]
    request_id: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What every incoming frame may carry; read first, so that an error can name its request."""

    type: Literal["request", "cancel"] = "request"
    request_id: RequestId | None = None
