"""`/admin/v1/tenants`, `/admin/v1/organisations`, `/admin/v1/keys` and `/admin/v1/audit`."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gateway.api.openapi.admin_operations import admin_operations
from tests.gateway.api.admin.conftest import ADMIN_KEY
from tests.gateway.api.asgi import KEY
from tests.gateway.api.conftest import ServedApp, chat, client_of

TENANTS, KEYS = "/admin/v1/tenants", "/admin/v1/keys"


async def made(operator: httpx.AsyncClient, path: str, **body: object) -> Any:  # Any: JSON
    response = await operator.post(path, json=body)
    assert response.status_code == 201, response.text
    return response.json()


async def status_of(served_app: ServedApp, key: str) -> int:
    async with client_of(served_app, key=key) as client:
        return (await client.post("/v1/chat/completions", json=chat())).status_code


async def test_from_tenant_to_answer(staffed: ServedApp, operator: httpx.AsyncClient) -> None:
    """A tenant, its key, a request, and no more once the key is revoked."""
    tenant = await made(
        operator, TENANTS, name="guest", limits={"requests_per_minute": 60}, max_output_tokens=2, models=["demo"]
    )
    key = await made(operator, KEYS, tenant="guest", name="ci")

    assert tenant["limits"] == {"requests_per_minute": 60}
    assert (tenant["max_output_tokens"], tenant["origin"], tenant["disabled"]) == (2, "api", False)
    assert await status_of(staffed, key["key"]) == 200
    async with client_of(staffed, key=key["key"]) as tenant_client:
        assert [model["id"] for model in (await tenant_client.get("/v1/models")).json()["data"]] == ["demo"]
    assert (await operator.delete(f"{KEYS}/{key['id']}")).json() == {"id": key["id"], "deleted": True}
    assert await status_of(staffed, key["key"]) == 401


async def test_keys_are_shown_once(operator: httpx.AsyncClient) -> None:
    """The secret is in neither list, nor entry, nor log."""
    await made(operator, TENANTS, name="guest")
    key = await made(operator, KEYS, tenant="guest")

    later = [await operator.get(path) for path in (KEYS, f"{KEYS}/{key['id']}", "/admin/v1/audit", TENANTS)]

    assert all(response.status_code == 200 and key["key"] not in response.text for response in later)
    assert later[1].json()["hint"].endswith(key["key"][-4:])


async def test_patch_merges(operator: httpx.AsyncClient) -> None:
    """Fields left out stay, null takes one back, nested limits merge."""
    await made(
        operator, TENANTS, name="guest", max_output_tokens=2, limits={"requests_per_minute": 60, "tokens_per_minute": 9}
    )

    response = await operator.patch(
        f"{TENANTS}/guest", json={"max_output_tokens": None, "limits": {"tokens_per_minute": None}}
    )

    assert response.status_code == 200
    assert (response.json()["max_output_tokens"], response.json()["limits"]) == (None, {"requests_per_minute": 60})
    assert (await operator.get(f"{TENANTS}/guest")).json() == response.json()


async def test_disabled_at_once(staffed: ServedApp, operator: httpx.AsyncClient) -> None:
    """A tenant is disabled at once, and enabled again."""
    await made(operator, TENANTS, name="guest")
    key = (await made(operator, KEYS, tenant="guest"))["key"]

    seen = []
    for disabled in (True, False):
        await operator.patch(f"{TENANTS}/guest", json={"disabled": disabled})
        seen.append(await status_of(staffed, key))

    assert seen == [403, 200]


async def test_aliases(staffed: ServedApp, operator: httpx.AsyncClient) -> None:
    """A name of the tenant's own stands for a model, for this tenant only."""
    await made(operator, TENANTS, name="guest", aliases={"gpt-4o": "demo"})
    key = (await made(operator, KEYS, tenant="guest"))["key"]
    async with client_of(staffed, key=key) as tenant_client, client_of(staffed, key=KEY) as other:
        answers = [
            await client.post("/v1/chat/completions", json=chat() | {"model": "gpt-4o"})
            for client in (tenant_client, other)
        ]

    assert [answer.status_code for answer in answers] == [200, 404]
    assert answers[0].json()["model"] == "gpt-4o"


async def test_rotation(staffed: ServedApp, operator: httpx.AsyncClient) -> None:
    """Rotation without overlap ends the old key at once."""
    await made(operator, TENANTS, name="guest")
    old = await made(operator, KEYS, tenant="guest")

    new = await made(operator, f"{KEYS}/{old['id']}/rotate", overlap_s=0)

    assert (await status_of(staffed, old["key"]), await status_of(staffed, new["key"])) == (401, 200)


async def test_pages(operator: httpx.AsyncClient) -> None:
    """`has_more` tells whether to go on behind the last id."""
    for number in range(3):
        await made(operator, TENANTS, name=f"t{number}")
    first = (await operator.get(TENANTS, params={"limit": 4})).json()
    second = (await operator.get(TENANTS, params={"limit": 4, "after": first["data"][-1]["id"]})).json()

    assert (len(first["data"]), first["has_more"], first["object"]) == (4, True, "list")
    assert ([tenant["name"] for tenant in second["data"]], second["has_more"]) == (["t1", "t2"], False)


async def test_the_log(operator: httpx.AsyncClient) -> None:
    """The audit log names actor, action and request id; its hash chain is whole."""
    tenant = await operator.post(TENANTS, json={"name": "guest"}, headers={"x-request-id": "req-7"})

    log = (await operator.get("/admin/v1/audit", params={"limit": 1000})).json()["data"]

    assert (log[-1]["actor"], log[-1]["action"], log[-1]["request_id"]) == ("operator", "tenant.create", "req-7")
    assert log[-1]["target"] == tenant.json()["id"]
    assert log[-1]["detail"] == {"name": "guest"}
    assert (await operator.get("/admin/v1/audit/verify")).json() == {"whole": True, "broken_at": None}


ROUTES = [
    (operation.method.upper(), operation.path.format(tenant="acme", key="key_1")) for operation in admin_operations()
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_nobody_without_the_scope(
    staffed: ServedApp, operator: httpx.AsyncClient, method: str, path: str
) -> None:
    """No key 401, a tenant's key 403; one that may read may not write."""
    reader = await made(
        operator, KEYS, tenant=(await made(operator, TENANTS, name="staff"))["id"], scopes=["admin:read"]
    )
    answers = []
    for key in (None, KEY, reader["key"]):
        async with client_of(staffed, key=key) as client:
            answers.append(await client.request(method, path, json={} if method in ("POST", "PATCH") else None))

    assert [answer.status_code for answer in answers[:2]] == [401, 403]
    assert answers[1].json()["error"]["code"] == "insufficient_scope"
    assert (answers[2].status_code == 403) == (method != "GET")


async def test_operators_do_not_infer(staffed: ServedApp) -> None:
    """The admin key opens no model."""
    assert await status_of(staffed, ADMIN_KEY) == 403


@pytest.mark.parametrize(
    ("path", "body", "param", "word"),
    [
        (TENANTS, {}, "name", "required"),
        (TENANTS, {"name": "x y"}, "name", "regex"),
        (TENANTS, {"name": "a\u0000"}, "name", "regex"),
        (TENANTS, {"name": "a", "wait": 1}, "wait", "field"),
        (TENANTS, {"name": "a", "max_output_tokens": 0}, "max_output_tokens", ">="),
        (TENANTS, {"name": "a", "limits": {"rpm": 1}}, "limits.rpm", "no field"),
        (TENANTS, {"name": "a", "limits": {"requests_per_minute": 2**70}}, "limits.requests_per_minute", "<="),
        (KEYS, {"tenant": "acme", "scopes": ["root"]}, "scopes[0]", "root"),
        (KEYS, {"tenant": "acme", "scopes": []}, "scopes", "length"),
        (KEYS, {"tenant": "acme", "expires_at": -1}, "expires_at", ">="),
        (KEYS, {"tenant": "acme", "name": "a\nb"}, "name", "regex"),
    ],
)
async def test_bad_bodies(operator: httpx.AsyncClient, path: str, body: object, param: str, word: str) -> None:
    """400 with the field at fault."""
    response = await operator.post(path, json=body)

    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert word in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
async def test_no_json(operator: httpx.AsyncClient, body: bytes) -> None:
    """A body that is no JSON is refused for a creation and for a change."""
    headers = {"content-type": "application/json"}
    for method, path in (("POST", TENANTS), ("PATCH", f"{TENANTS}/acme")):
        response = await operator.request(method, path, content=body, headers=headers)
        assert response.status_code == 400, response.text


async def test_conflicts_and_unknowns(operator: httpx.AsyncClient) -> None:
    """409 for what contradicts, 404 for what is not there, 400 for a page that cannot be."""
    await made(operator, TENANTS, name="guest")
    answers = [
        await operator.post(TENANTS, json={"name": "guest"}),
        await operator.patch(f"{TENANTS}/acme", json={"max_output_tokens": 3}),
        await operator.post(KEYS, json={"tenant": "nobody"}),
        await operator.delete(f"{KEYS}/key_nobody"),
        await operator.get(TENANTS, params={"limit": 0}),
        await operator.get(TENANTS, params={"limit": "many"}),
    ]

    assert [answer.status_code for answer in answers] == [409, 409, 404, 404, 400, 400]
    assert [answer.json()["error"]["code"] for answer in answers[:4]] == [
        "conflict",
        "conflict",
        "not_found",
        "not_found",
    ]
