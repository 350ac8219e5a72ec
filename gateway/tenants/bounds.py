"""How long the requests of a caller may be."""

from __future__ import annotations

import msgspec

from gateway.errors import InvalidRequest
from gateway.tenants.identity import Caller


class Bounds(msgspec.Struct, frozen=True):
    """In tokens; None leaves it to the model."""

    max_tokens: int | None
    max_context: int | None
    is_by_room: bool
    """Whether the limits bound the context, and may leave more another time."""


def bounds_of(caller: Caller, *, max_tokens: int | None, room: int | None) -> Bounds:
    """Of a request that asks for `max_tokens`. Raises `InvalidRequest` if its tenant may not.

    A request that does not say how long its answer may be would ask for all that the model can; so that it fits the
    limits at all, its context is bounded by `room`, what they leave.
    """
    policy = caller.tenant.policy
    most = policy.max_output_tokens
    if most is not None and max_tokens is not None and max_tokens > most:
        raise InvalidRequest(
            f"max_tokens asks for {max_tokens}, and this tenant may ask for {most}", param="max_tokens"
        )
    wanted = most if max_tokens is None else max_tokens
    if room is None or max_tokens is not None:
        return Bounds(wanted, policy.max_context, is_by_room=False)
    least = max(1, room)
    is_by_room = policy.max_context is None or least < policy.max_context
    return Bounds(wanted, least if is_by_room else policy.max_context, is_by_room)
