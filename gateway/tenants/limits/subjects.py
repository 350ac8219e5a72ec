"""Subjects of limits (a tenant, a key, a tenant's use of a model), and bounds on the length of their requests."""

from __future__ import annotations

import msgspec

from gateway.errors import InvalidRequest
from gateway.tenants.policy import Caller, Key, Limits, Tenant


class Subject(msgspec.Struct, frozen=True):
    """Subject of limits. `id` names it in memory and in the store, `what` in messages."""

    id: str
    limits: Limits
    what: str


def subjects_of(caller: Caller, model: str | None) -> list[Subject]:
    """Subjects of a request for a model; without a model, those of every request of this caller."""
    subjects = [tenant_subject(caller.tenant), key_subject(caller.key)]
    if model is not None and model in caller.tenant.policy.model_limits:
        subjects.append(model_subject(caller.tenant, model))
    return subjects


def all_subjects(tenant: Tenant) -> list[Subject]:
    """The tenant, and its use of every model that has limits of its own."""
    return [tenant_subject(tenant), *(model_subject(tenant, model) for model in tenant.policy.model_limits)]


def tenant_subject(tenant: Tenant) -> Subject:
    return Subject(tenant_subject_id(tenant.id), tenant.policy.limits, f"tenant {tenant.name}")


def key_subject(key: Key) -> Subject:
    return Subject(key_subject_id(key.id), key.limits, "this key")


def model_subject(tenant: Tenant, model: str) -> Subject:
    limits = tenant.policy.model_limits[model]
    return Subject(model_subject_id(tenant.id, model), limits, f"tenant {tenant.name} on {model}")


def tenant_subject_id(tenant_id: str) -> str:
    return f"tenant {tenant_id}"


def key_subject_id(key_id: str) -> str:
    return f"key {key_id}"


def model_subject_id(tenant_id: str, model: str) -> str:
    return f"tenant {tenant_id} {model}"


class Bounds(msgspec.Struct, frozen=True):
    """Bounds of a request in tokens; None leaves it to the model."""

    max_tokens: int | None
    max_context: int | None
    is_by_room: bool
    """True if the limits bound the context, and may leave more another time."""


def bounds_of(caller: Caller, *, max_tokens: int | None, room: int | None) -> Bounds:
    """Bounds of a request that asks for `max_tokens`. Raises `InvalidRequest` if its tenant may not.

    A request without a length would ask for all that the model can; so that it fits the limits at all, its context is
    bounded by `room`, the tokens that they leave.
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
