"""Entries to write down."""

from __future__ import annotations

import msgspec

from gateway.tenants.usage.entry import UsageEntry

ENTRY = UsageEntry(
    id="chatcmpl-0",
    request_id="req_0",
    tenant_id="ten_a",
    key_id="key_a",
    model="demo",
    state="completed",
    started_at=7200.0,
    ended_at=7201.0,
    prompt_tokens=10,
    cached_tokens=4,
    completion_tokens=3,
    accepted_prediction_tokens=1,
)


def entry(number: int, **fields: object) -> UsageEntry:
    return msgspec.structs.replace(ENTRY, id=f"chatcmpl-{number}", **fields)
