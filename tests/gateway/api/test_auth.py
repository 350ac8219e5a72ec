"""Authentication, the headers of every response, and responses of routes that do not exist."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from gateway.api.auth import LOCAL_PATHS, PUBLIC_PATHS
from gateway.tenants.auth.wrong_keys import WrongKeys
from tests.gateway.api.asgi import KEY, Connection, Exchange, scope_of
from tests.gateway.api.conftest import ServedApp, build, chat, client_of

GUARDED = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/x"),
)
NOWHERE = (("GET", "/"), ("GET", "/nothing"), ("GET", "/v1/nothing"), ("POST", "/health/live/../../v1/models"))


async def _ask(
    served_app: ServedApp, path: str, *, method: str = "GET", **scope: Any
) -> tuple[int, dict[str, str], bytes]:
    # Any: keywords of `scope_of`
    connection = Connection(served_app.app, scope_of(path, method=method, **scope))
    connection.say({"type": "http.request", "body": b"", "more_body": False})
    start, *rest = await connection.end()
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(message.get("body", b"") for message in rest)


@pytest.fixture(scope="module")
def guarded() -> ServedApp:
    """One for all who are refused; wrong keys are not counted, or the last of them would get a 429."""
    return build(wrong_keys=WrongKeys(per_minute=0))


@pytest.mark.parametrize(("method", "path"), [*GUARDED, *NOWHERE])
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (KEY, 401),
        (f"Basic {KEY}", 401),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401),
        (f"Bearer {KEY[:15]}{'0' * (len(KEY) - 15)}", 401),
        (f"Bearer {KEY} {KEY}", 401),
        ("Bearer ' OR '1'='1' --", 401),
        ("Bearer ' UNION SELECT digest FROM api_keys --", 401),
        ("Bearer %", 401),
        ("Bearer _", 401),
        ('Bearer "', 401),
        ("Bearer schlüssel", 401),
        ("Bearer sk-closed-0123456789", 403),
    ],
)
async def test_no_entry(method: str, path: str, authorization: str | None, status: int, guarded: ServedApp) -> None:
    """Deny by default, on every path: 401 tells how to send a key, 403 that the tenant is disabled."""
    headers = {} if authorization is None else {"Authorization": authorization}

    found, answered, body = await _ask(guarded, path, method=method, headers=headers)

    error = json.loads(body)["error"]
    assert found == status
    assert error["code"] == ("invalid_api_key" if status == 401 else "tenant_disabled")
    assert error["type"] == ("invalid_request_error" if status == 401 else "permission_error")
    assert KEY not in body.decode()
    assert status == 403 or "Authorization: Bearer" in error["message"]
    assert answered["x-request-id"]
    assert guarded.backend.requests == []


@pytest.mark.parametrize("path", ["/v1/models", "/admin/v1/tenants", "/nothing"])
async def test_too_many_wrong_keys(path: str) -> None:
    """429 for wrong ones of that address, whatever headers say of it, and no client tries again by itself; the right
    key works, and so do wrong ones from elsewhere, and no key at all is none that is wrong."""
    served_app = build(wrong_keys=WrongKeys(per_minute=5))
    wrong = {"Authorization": "Bearer sk-wrong"}
    statuses = [(await _ask(served_app, path, headers=wrong | {"X-Forwarded-For": f"10.0.0.{n}"}))[0] for n in range(8)]

    status, headers, body = await _ask(served_app, path, headers=wrong)

    assert statuses == [401] * 5 + [429] * 3
    assert (status, json.loads(body)["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(headers["retry-after"]) <= 61
    assert headers["x-should-retry"] == "false"
    assert (await _ask(served_app, path))[0] in (200, 403, 404)
    assert (await _ask(served_app, path, headers={}))[0] == 401
    assert (await _ask(served_app, path, headers=wrong, client=("203.0.113.7", 1)))[0] == 401
    assert (await _ask(served_app, "/health/live", headers=wrong))[0] == 200


async def test_no_key_is_not_wrong(served_app: ServedApp) -> None:
    """A probe without a key is told so for ever."""
    statuses = {(await _ask(served_app, "/v1/models", headers={}))[0] for _ in range(100)}

    assert statuses == {401}


@pytest.mark.parametrize("name", ["key", "api_key", "api-key", "access_token", "token", "authorization"])
async def test_never_in_the_address(name: str, served_app: ServedApp) -> None:
    """A key is no part of a URL, where logs and proxies keep it."""
    status, _, _ = await _ask(served_app, "/v1/models", headers={}, query_string=f"{name}={KEY}".encode())

    assert status == 401


async def test_just_used_keys_help_nobody(served_app: ServedApp) -> None:
    """Keys that share what a cache might look at with one that was right a moment ago."""
    near = [KEY[:shared] + "x" * (len(KEY) - shared) for shared in range(len(KEY))]

    good = [(await _ask(served_app, "/v1/models"))[0] for _ in range(3)]
    bad = [(await _ask(served_app, "/v1/models", headers={"Authorization": f"Bearer {key}"}))[0] for key in near]

    assert (set(good), set(bad)) == ({200}, {401})


async def test_two_keys_are_none(served_app: ServedApp) -> None:
    """More than one Authorization header is refused, though one of them is right."""
    scope = scope_of("/v1/models", method="GET")
    scope["headers"] += scope["headers"]
    connection = Connection(served_app.app, scope)

    start, *_ = await connection.end()

    assert start["status"] == 401


async def test_scheme_in_any_case(served_app: ServedApp) -> None:
    """RFC 9110: the scheme is case-insensitive."""
    status, _, _ = await _ask(served_app, "/v1/models", headers={"Authorization": f"bearer {KEY}"})

    assert status == 200


@pytest.mark.parametrize("path", sorted(PUBLIC_PATHS | LOCAL_PATHS))
async def test_public_paths(path: str, served_app: ServedApp) -> None:
    """Probes, the document and, on this machine, metrics need no key."""
    status, headers, _ = await _ask(served_app, path, headers={})

    assert status == 200
    assert headers["x-request-id"]


@pytest.mark.parametrize(
    ("extra", "headers", "status"),
    [
        ({"client": ("127.0.0.1", 1)}, {}, 200),
        ({"client": ("::1", 1)}, {}, 200),
        ({"client": ("203.0.113.7", 1)}, {}, 401),
        ({"client": None}, {}, 401),
        ({"client": ("not an address", 1)}, {}, 401),
        ({"client": ("127.0.0.1", 1)}, {"X-Forwarded-For": "127.0.0.1"}, 401),
        ({"client": ("203.0.113.7", 1)}, {"Authorization": f"Bearer {KEY}"}, 403),
    ],
)
async def test_metrics_are_local(
    extra: dict[str, Any], headers: dict[str, str], status: int, served_app: ServedApp
) -> None:
    """Metrics are open to this machine only, and not through a proxy; elsewhere they are for operators."""
    found, _, _ = await _ask(served_app, "/metrics", headers=headers, **extra)

    assert found == status


@pytest.mark.parametrize("path", ["//health", "/health/", "/HEALTH", "/health?x", "/x/../health"])
async def test_only_exact_paths_are_public(path: str, served_app: ServedApp) -> None:
    """The path is judged as it was sent, whatever the router makes of it."""
    status, _, _ = await _ask(served_app, path, headers={})

    assert status == 401


@pytest.mark.parametrize(
    "host", ["localhost/health?", "localhost/docs#", "a@b/../health", "[::1", "x:99999999", "", "é"]
)
@pytest.mark.parametrize("key", [None, KEY])
async def test_host_header_opens_nothing(host: str, key: str | None, served_app: ServedApp) -> None:
    """A crafted Host neither opens a route nor breaks the server."""
    headers = {"Host": host} | ({"Authorization": f"Bearer {key}"} if key else {})

    status, _, _ = await _ask(served_app, "/v1/models", headers=headers)

    assert status in ((200, 400) if key else (401,))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("my-id_42", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("a\n", False), ("", False)],
)
async def test_request_id(sent: str, kept: bool, client: httpx.AsyncClient) -> None:
    """A sane id of the client comes back, anything else is replaced."""
    response = await client.get("/v1/models", headers=[(b"x-request-id", sent.encode())])

    assert (response.headers["x-request-id"] == sent) is kept
    assert re.fullmatch(r"[\w-]{1,128}", response.headers["x-request-id"])


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_wrong_method(method: str, path: str, client: httpx.AsyncClient) -> None:
    """405 names what is allowed."""
    response = await client.request(method, path)

    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


async def test_wrong_method_elsewhere(client: httpx.AsyncClient) -> None:
    """The same where Litestar answers."""
    response = await client.post("/v1/models")

    assert response.status_code == 405
    assert "GET" in response.headers["allow"]
    assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/", "/nothing", "/v1", "/v1/chat", "/v1/chat/completions/x", "/docs", "/schema"])
async def test_unknown_path(path: str, client: httpx.AsyncClient) -> None:
    """404 with the error object for who has a key."""
    response = await client.get(path)

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


async def test_every_answer_carries_headers(client: httpx.AsyncClient) -> None:
    """Good or bad: request id, time and no caching."""
    for response in (
        await client.post("/v1/chat/completions", json=chat()),
        await client.post("/v1/chat/completions", json={}),
        await client.get("/v1/models"),
        await client.get("/nothing"),
        await client.get("/health"),
    ):
        assert response.headers["x-request-id"]
        assert int(response.headers["openai-processing-ms"]) >= 0
        assert response.headers["cache-control"] == "no-store"


async def test_draining(client: httpx.AsyncClient, served_app: ServedApp) -> None:
    """New requests are told to come back; probes say why; strangers learn nothing."""
    served_app.services.drain.close()

    refused = await client.post("/v1/chat/completions", json=chat())
    async with client_of(served_app, key=None) as stranger:
        unknown = await stranger.post("/v1/chat/completions", json=chat())

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "server_shutdown"
    assert refused.headers["retry-after"]
    assert refused.headers["connection"] == "close"
    assert unknown.status_code == 401
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health/ready")).json()["status"] == "draining"


async def test_request_counts_as_inside() -> None:
    """A drain waits for what runs."""
    from backends.testing.backend import Script

    served_app = build(Script(pause_before=1))
    exchange = Exchange(served_app.app, chat())
    await served_app.backend.paused.wait()

    assert served_app.services.drain.num_open == 1
    served_app.backend.resume()
    await exchange.end()
    await served_app.services.drain.wait_empty()
    assert served_app.services.drain.num_open == 0


async def test_lifespan_passes(served_app: ServedApp) -> None:
    """A server with lifespan events is answered."""
    connection = Connection(served_app.app, {"type": "lifespan", "asgi": {"version": "3.0"}})
    connection.say({"type": "lifespan.startup"})
    connection.say({"type": "lifespan.shutdown"})

    messages = await connection.end()

    assert [message["type"] for message in messages] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
