"""How long the requests of a caller may be."""

from __future__ import annotations

import msgspec

from gateway.errors import InvalidRequest
from gateway.tenants.identity import Caller
from gateway.tenants.policy import NO_LIMITS


class Bounds(msgspec.Struct, frozen=True):
    """In tokens; None leaves it to the model."""

    max_tokens: int | None
    max_context: int | None


def bounds_of(caller: Caller, model: str, *, max_tokens: int | None) -> Bounds:
    """Of a request that asks for `max_tokens`. Raises `InvalidRequest` if its tenant may not.

    A request that does not say how long its answer may be would ask for all that the model can; so that it fits the
    limits a minute at all, they bound its context.
    """
    policy = caller.tenant.policy
    most = policy.max_output_tokens
    if most is not None and max_tokens is not None and max_tokens > most:
        raise InvalidRequest(
            f"max_tokens asks for {max_tokens}, and this tenant may ask for {most}", param="max_tokens"
        )
    wanted = most if max_tokens is None else max_tokens
    limits = [caller.key.limits, policy.limits, policy.model_limits.get(model, NO_LIMITS)]
    bounds = [policy.max_context, *((each.tokens_per_minute for each in limits) if max_tokens is None else ())]
    return Bounds(wanted, min((bound for bound in bounds if bound is not None), default=None))
