"""Whom limits apply to: a tenant, one of its keys, and its use of one model."""

from __future__ import annotations

import msgspec

from gateway.tenants.identity import Caller, Key, Tenant
from gateway.tenants.policy import Limits


class Subject(msgspec.Struct, frozen=True):
    """`id` names it in memory and in the store, `what` in messages."""

    id: str
    limits: Limits
    what: str


def subjects_of(caller: Caller, model: str | None) -> list[Subject]:
    """Of a request for a model; without one, those that every request of this caller has in common."""
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
