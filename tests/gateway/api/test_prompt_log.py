"""Prompts in the log, only of tenants that asked for it."""

from __future__ import annotations

import json

import pytest

from gateway.tenants.records import TenantConfig
from tests.gateway.api.conftest import build, chat, client_of
from tests.gateway.tenants.declared import directory_of

OPEN, CLOSED = "sk-open-0123456789", "sk-closed-9876543210"
SECRET = "the canary\nsings"


async def test_only_tenants_that_asked_for_it(caplog: pytest.LogCaptureFixture) -> None:
    """One line of JSON a request, whole or streamed, with every choice; nothing of the others."""
    tenants = [
        TenantConfig(name="open", keys=(OPEN,), log_prompts=True),
        TenantConfig(name="closed", keys=(CLOSED,)),
    ]
    served_app = build(directory=directory_of(tenants))
    body = chat(messages=[{"role": "user", "content": SECRET}], n=2)
    with caplog.at_level("DEBUG"):
        async with client_of(served_app, key=CLOSED) as client:
            await client.post("/v1/chat/completions", json=body)
        before = caplog.text
        async with client_of(served_app, key=OPEN) as client:
            answer = await client.post("/v1/chat/completions", json=body)

    assert "canary" not in before
    (line,) = [record.getMessage() for record in caplog.records if record.name == "gateway.prompts"]
    assert "\n" not in line
    logged = json.loads(line)
    assert (logged["tenant"], logged["outcome"], logged["id"]) == ("open", "completed", answer.json()["id"])
    assert logged["prompts"][0]["messages"][0]["content"] == SECRET
    assert logged["answers"] == [choice["message"]["content"] for choice in answer.json()["choices"]]
    assert OPEN not in caplog.text
