"""Authentication from outside: guesses, names of other servers, pages of other sites, and keys in the wrong places."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import openai
import psutil
import pytest

from e2e.harness.server import Server
from e2e.harness.shape import assert_error
from e2e.test_tenants import MESSAGES, MODEL, TenantServer
from gateway.api.openapi.document import document

WRONG_A_MINUTE = 5
KEY, SLOW = "sk-ho-door-0123456789abcdef", "sk-ho-slow-0123456789abcdef"
CONFIG = f"""\
[server]
max_wrong_keys_per_minute = {WRONG_A_MINUTE}
allowed_hosts = ["llm.example"]

[[tenants]]
name = "acme"
keys = ["{KEY}"]

[[tenants]]
name = "slow"
keys = ["{SLOW}"]
limits = {{ requests_per_minute = 3 }}
"""
PUBLIC = {"/health", "/health/live", "/health/ready", "/openapi.json"}
LOCAL = {"/metrics"}
OPERATIONS = [(method.upper(), path) for path, item in document()["paths"].items() for method in item]
ADMIN = "sk-admin-door-0123456789"
SECRETS = {"HOSTELRY_SERVE_ADMIN_KEY": ADMIN, "HF_TOKEN": "hf-door-0123456789"}
GUESS = "sk-ho-guess-"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, TenantServer]]:
    folder = tmp_path_factory.mktemp("door")
    config = folder / "hostelry.toml"
    config.write_text(CONFIG)
    server = Server(["--port", "0", "--data-dir", str(folder), "--config", str(config)], environment=SECRETS)
    try:
        yield server, TenantServer(server.wait_ready(), folder)
    finally:
        server.stop()


@pytest.fixture
def tenant_server(served: tuple[Server, TenantServer]) -> TenantServer:
    return served[1]


def ask(tenant_server: TenantServer, path: str, key: str | None = KEY, **headers: str) -> httpx.Response:
    sent = headers | ({"Authorization": f"Bearer {key}"} if key else {})
    return httpx.get(tenant_server.url + path, headers=sent, timeout=300)


@pytest.mark.parametrize("path", ["/health", "/metrics", "/openapi.json", "/v1/models"])
def test_names_and_pages(path: str, tenant_server: TenantServer) -> None:
    """A page that has its name point here reads nothing, with a key neither; by other names all can be read."""
    port = tenant_server.url.rpartition(":")[2]
    for host in (f"evil.example:{port}", "llm.example.evil", "sub.llm.example", "169.254.169.254"):
        assert_error(ask(tenant_server, path, Host=host), 421, code="host_not_allowed")
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        assert_error(ask(tenant_server, path, Origin=origin), 403, code="origin_not_allowed")

    good = [ask(tenant_server, path, Host=host) for host in (f"localhost:{port}", "LLM.example", f"[::1]:{port}")]
    good.append(ask(tenant_server, path, Origin="http://localhost:3000"))
    assert [answer.status_code for answer in good] == [200] * 4
    assert not [answer for answer in good if "access-control-allow-origin" in answer.headers]


@pytest.mark.parametrize(("method", "path"), [*OPERATIONS, ("POST", "/config/update"), ("GET", "/nowhere")])
def test_closed_by_default(method: str, path: str, tenant_server: TenantServer) -> None:
    """Only the paths named here open without a key, and a tenant's key opens nothing of admin."""
    url = tenant_server.url + path.replace("{", "").replace("}", "")
    stranger, tenant = (
        httpx.request(method, url, headers=sent, json={} if method in ("POST", "PATCH") else None, timeout=300)
        for sent in ({}, {"Authorization": f"Bearer {KEY}"})
    )

    if path in PUBLIC | LOCAL:
        assert stranger.status_code == 200
    else:
        assert_error(stranger, 401, code="invalid_api_key")
    if path.startswith("/admin"):
        assert_error(tenant, 403, code="insufficient_scope")
    elif path in LOCAL:
        assert tenant.status_code == 200
    elif (method, path) not in OPERATIONS:
        assert_error(tenant, 404)


def test_limits_go_by_key(tenant_server: TenantServer) -> None:
    """Limits go by key, not by what a header says of where a request comes from."""
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 1}
    statuses = [
        httpx.post(
            f"{tenant_server.url}/v1/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer {SLOW}", "X-Forwarded-For": f"203.0.113.{number}"},
            timeout=300,
        ).status_code
        for number in range(20)
    ]

    assert statuses == [200] * 3 + [429] * 17


def test_a_huge_boundary(served: tuple[Server, TenantServer]) -> None:
    """A megabyte of multipart boundary is refused, without a key and with one, in less than the time of a start."""
    server, tenant_server = served
    for key in (None, KEY):
        sent = {"Content-Type": "multipart/form-data; boundary=" + "x" * 1_000_000}
        start = time.monotonic()
        try:
            status = httpx.post(
                f"{tenant_server.url}/v1/chat/completions",
                content=b"--",
                headers=sent | ({"Authorization": f"Bearer {key}"} if key else {}),
                timeout=300,
            ).status_code
        except httpx.TransportError:
            status = 431
        assert status in (400, 401, 413, 415, 431)
        assert time.monotonic() - start < server.start_s


def test_a_key_ends(tenant_server: TenantServer) -> None:
    """A key ends at its time by itself; one that was rotated without an overlap ends at once."""
    headers = {"Authorization": f"Bearer {ADMIN}"}
    with httpx.Client(base_url=f"{tenant_server.url}/admin/v1", headers=headers, timeout=300) as operator:
        ends = time.time() + 2
        short = operator.post("/keys", json={"tenant": "acme", "expires_at": ends}).json()
        turned = operator.post("/keys", json={"tenant": "acme"}).json()
        before = [ask(tenant_server, "/v1/models", key["key"]).status_code for key in (short, turned)]
        new = operator.post(f"/keys/{turned['id']}/rotate", json={}).json()
        after = [ask(tenant_server, "/v1/models", key["key"]).status_code for key in (turned, new)]
        shown = operator.get(f"/keys/{short['id']}").text + operator.get("/keys").text + operator.get("/audit").text
    time.sleep(max(0.0, ends - time.time()))

    assert (before, after) == ([200, 200], [401, 200])
    assert_error(ask(tenant_server, "/v1/models", short["key"]), 401, code="invalid_api_key")
    assert not [key for key in (short, turned, new) if key["key"] in shown]


def test_guessing(tenant_server: TenantServer) -> None:
    """Wrong keys are soon 429, whatever is told of who sends them; the right key is good all the while."""
    statuses = []
    for number in range(3 * WRONG_A_MINUTE):
        answer = ask(tenant_server, "/v1/models", f"{GUESS}{number:016}", **{"X-Forwarded-For": f"203.0.113.{number}"})
        statuses.append(answer.status_code)
        assert ask(tenant_server, "/v1/models").status_code == 200
    refused = ask(tenant_server, "/v1/models", "sk-ho-wrong-0123456789")
    with tenant_server.client("sk-ho-wrong-0123456789", max_retries=2) as client, pytest.raises(openai.RateLimitError):
        client.models.list()

    told = statuses.count(401)  # other tests may have shown wrong keys in this minute
    assert 1 <= told <= WRONG_A_MINUTE
    assert statuses == [401] * told + [429] * (3 * WRONG_A_MINUTE - told)
    assert_error(refused, 429, code="rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert ask(tenant_server, "/v1/models", None).status_code == 401


def test_secrets_stay_where_they_are(served: tuple[Server, TenantServer]) -> None:
    """No key, right or wrong, is in log, metrics, store or journal after all of this, nor in what an engine sees."""
    server, tenant_server = served
    ask(tenant_server, "/v1/models", f"{GUESS}last")
    files = [
        path for path in tenant_server.data_dir.rglob("*") if path.is_file() and path.suffix not in (".toml", ".key")
    ]
    seen = {str(path): path.read_bytes() for path in files}
    seen["log"] = server.output().encode()
    seen["metrics"] = ask(tenant_server, "/metrics").content
    for child in psutil.Process(server.process.pid).children(recursive=True):
        seen[f"environment of {child.pid}"] = str(child.environ()).encode()

    assert any("hostelry.db" in name for name in seen)
    assert any("environment" in name for name in seen)
    for secret in (KEY, SLOW, GUESS, *SECRETS.values()):
        assert not [name for name, content in seen.items() if secret.encode() in content], secret[:16]
