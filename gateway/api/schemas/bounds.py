"""Numbers and lengths that several requests share. Every number and list of a request has a bound.

Texts have none: the limit on the body bounds them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_PROMPTS = 16
MAX_TOKEN_ID = 2**31 - 1

Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=-1, le=1_000_000, description="0 or -1 is off")]
MinP = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Meta(gt=0, le=10, description="1 is off")]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
NumChoices = Annotated[int, Meta(ge=1, le=8)]
MaxTokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
LogitBias = Annotated[dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)]
StopText = Annotated[str, Meta(min_length=1)]
StopStrings = StopText | Annotated[list[StopText], Meta(max_length=16)]
Deadline = Annotated[
    float, Meta(gt=0, le=86_400, description="Seconds from arrival within which the complete response is needed")
]
RequestMetadata = Annotated[dict[str, str], Meta(max_length=64)]
ServiceTier = Literal["auto", "default"]


class StreamOptions(msgspec.Struct, frozen=True):
    """Options of a stream: extra data along with the text."""

    include_usage: bool | None = None


class Speculative(msgspec.Struct, frozen=True):
    """Switches speculative decoding for one request."""

    enabled: bool = False
