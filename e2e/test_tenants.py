"""Tenants from outside: the operator's commands, the official client, two servers over one store, and damage."""

from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from e2e.harness.counters import Counters
from e2e.harness.kills import Plan, audit, kill_under_load, read_books
from e2e.harness.nonce import rng
from e2e.harness.server import Server
from e2e.test_cli import hostelry

MESSAGES: Any = [{"role": "user", "content": "capital of Peru"}]
MODEL = "hostelry-demo"
REVOKED_WITHIN_S = 1.0


_clients: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def close_clients() -> Iterator[None]:
    yield
    while _clients:
        _clients.pop().close()


class TenantServer(msgspec.Struct, frozen=True):
    """A server with a data directory of its own."""

    url: str
    data_dir: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        place = ("--url", self.url, "--data-dir", str(self.data_dir))
        return hostelry(*arguments, *place, directory=self.data_dir)

    def json(self, *arguments: str) -> list[Any]:
        """Output of a command with `--json`, line by line."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [msgspec.json.decode(line) for line in done.stdout.splitlines()]

    def client(self, key: str, **options: Any) -> openai.OpenAI:
        options.setdefault("max_retries", 0)
        made = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **options)
        _clients.append(made)
        return made


@pytest.fixture(scope="module")
def tenant_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TenantServer, TenantServer]]:
    """Two servers over one store."""
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    config = folders[1] / "hostelry.toml"
    config.write_text(f'database = "sqlite:///{folders[0]}/hostelry.db"\n')
    servers = [Server(["--port", "0", "--data-dir", str(folders[0])])]
    try:
        first = TenantServer(servers[0].wait_ready(), folders[0])
        servers.append(Server(["--port", "0", "--data-dir", str(folders[1]), "--config", str(config)]))
        yield first, TenantServer(servers[1].wait_ready(), folders[1])
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
def tenant_server(tenant_servers: tuple[TenantServer, TenantServer]) -> TenantServer:
    return tenant_servers[0]


def ask(client: openai.OpenAI) -> str:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0, max_tokens=24)
    return answer.choices[0].message.content or ""


def test_a_day_of_an_operator(tenant_server: TenantServer) -> None:
    """Create, limit, serve, list, revoke; every step is in the log, and no secret is."""
    (tenant,) = tenant_server.json("tenants", "create", "acme", "--set", "limits.requests_per_minute=3")
    (key,) = tenant_server.json("keys", "create", "acme", "--name", "ci")
    client = tenant_server.client(key["key"])

    answers = [ask(client) for _ in range(3)]
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client)

    assert all("Lima" in answer for answer in answers)
    assert 1 <= float(caught.value.response.headers["retry-after"]) <= 61
    assert caught.value.code == "rate_limit_exceeded"
    assert [entry["name"] for entry in tenant_server.json("tenants", "list")][-1] == "acme"
    tenant_server.json("tenants", "update", "acme", "--set", "limits.requests_per_minute=null")
    assert "Lima" in ask(client)
    tenant_server.json("keys", "revoke", key["id"])
    with pytest.raises(openai.AuthenticationError):
        ask(client)
    log = tenant_server.json("audit", "list")
    assert [entry["action"] for entry in log][-4:] == ["tenant.create", "key.create", "tenant.update", "key.revoke"]
    assert log[-4]["target"] == tenant["id"]
    assert key["key"] not in str(log)
    assert tenant_server.json("audit", "verify") == [{"whole": True, "broken_at": None}]


def test_the_other_server_follows(tenant_servers: tuple[TenantServer, TenantServer]) -> None:
    """A key made at one is good at the other within a second, and so is its end, but for what a command takes here."""
    first, second = tenant_servers
    first.json("tenants", "create", "travels")
    (key,) = first.json("keys", "create", "travels")
    client = second.client(key["key"])

    _wait_until(lambda: _status(client) == 200)
    start = time.monotonic()
    first.json("keys", "revoke", key["id"])
    revoked = time.monotonic()
    command_s = revoked - start
    _wait_until(lambda: _status(client) == 401)

    assert time.monotonic() - revoked < REVOKED_WITHIN_S + command_s
    assert _status(first.client(key["key"])) == 401


def test_rotation_leaves_no_gap(tenant_server: TenantServer) -> None:
    """Both keys are valid during the overlap of a rotation."""
    tenant_server.json("tenants", "create", "turns")
    (old,) = tenant_server.json("keys", "create", "turns")
    (new,) = tenant_server.json("keys", "rotate", old["id"], "--overlap", "60")

    assert [_status(tenant_server.client(each["key"])) for each in (old, new)] == [200, 200]


def test_token_limits(tenant_server: TenantServer) -> None:
    """Tokens that the answer did not use are free again; the client does not retry a request that never fits."""
    tenant_server.json("tenants", "create", "counts", "--set", "limits.tokens_per_minute=100")
    (key,) = tenant_server.json("keys", "create", "counts")
    client = tenant_server.client(key["key"], max_retries=2)

    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=30)
    used = raw.parse().usage  # ty: ignore[missing-union-attribute]  # it is no stream
    assert used is not None
    after = client.models.with_raw_response.list().headers["x-ratelimit-remaining-tokens"]
    with pytest.raises(openai.RateLimitError, match="may use 100 a minute"):
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=200)

    assert int(after) == 100 - used.total_tokens
    assert _refused(tenant_server, "counts") == 1


def test_a_budget(tenant_server: TenantServer) -> None:
    """Twenty requests at once at its edge: the client is told so, retries nothing, and the sum stays below."""
    tenant_server.json("tenants", "create", "thrifty", "--set", "limits.tokens_per_day=150")
    (key,) = tenant_server.json("keys", "create", "thrifty")
    with tenant_server.client(key["key"]) as client, ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(lambda _: _asked(client), range(20)))
        while _asked(client) == 200:
            continue
    refused = _refused(tenant_server, "thrifty")
    with tenant_server.client(key["key"], max_retries=2) as client, pytest.raises(openai.RateLimitError) as caught:
        ask(client)
    (spent,) = tenant_server.json("usage", "sum", "--tenant", "thrifty")

    assert set(statuses) == {200, 429}
    assert caught.value.type == caught.value.code == "insufficient_quota"
    assert _refused(tenant_server, "thrifty") == refused + 1
    assert 100 < spent["prompt_tokens"] + spent["completion_tokens"] <= 150


def test_a_default_adapter(tenant_server: TenantServer) -> None:
    """The model has no such adapter, so a tenant with one is answered 404, and never by the model alone."""
    tenant_server.json("tenants", "create", "adapted", "--set", "default_adapter=law")
    (key,) = tenant_server.json("keys", "create", "adapted")
    client = tenant_server.client(key["key"])

    with pytest.raises(openai.NotFoundError, match="no adapter 'law', which is the default_adapter") as own:
        ask(client)
    with pytest.raises(openai.NotFoundError, match="no adapter 'tax'") as named:
        client.completions.create(model=f"{MODEL}:tax", prompt="capital of Peru", max_tokens=1)
    tenant_server.json("tenants", "update", "adapted", "--set", "default_adapter=null")
    answer = ask(client)

    assert own.value.code == named.value.code == "model_not_found"
    assert "Lima" in answer
    assert [row["requests"] for row in tenant_server.json("usage", "sum", "--tenant", "adapted")] == [1]


def test_servers_share_a_limit(tenant_servers: tuple[TenantServer, TenantServer]) -> None:
    """Asked at both in turn they grant it once; a second one at which alone is asked grants all of it."""
    counts = []
    for name, turns in (("shared", (0, 1)), ("lopsided", (1, 1))):
        tenant_servers[0].json("tenants", "create", name, "--set", "limits.requests_per_minute=6")
        (key,) = tenant_servers[0].json("keys", "create", name)
        _wait_until(lambda: all(_status(tenant_server.client(key["key"])) == 200 for tenant_server in tenant_servers))  # noqa: B023 - ends here
        statuses = [_asked(tenant_servers[turns[number % 2]].client(key["key"])) for number in range(10)]
        counts.append(statuses.count(200))
        assert set(statuses) == {200, 429}

    assert counts == [6, 6]


def test_commands_say_what_is_wrong(tenant_server: TenantServer, tmp_path: Path) -> None:
    """One line, no traceback, status 1 or 2."""
    tenant_server.json("tenants", "create", "twice")
    faults = [
        (tenant_server.run("tenants", "create", "twice"), "exists already"),
        (tenant_server.run("tenants", "update", "twice", "--set", "limits.rpm=1"), "no field limits.rpm"),
        (tenant_server.run("tenants", "update", "twice", "--set", "wait"), "FIELD=VALUE"),
        (tenant_server.run("tenants", "update", "default", "--set", "max_context=99"), "configuration file"),
        (tenant_server.run("keys", "create", "nobody"), "no tenant 'nobody'"),
        (tenant_server.run("keys", "revoke", "key_nobody"), "no key"),
        (tenant_server.run("keys", "list", "--admin-key", "sk-wrong-0123456789"), "not known"),
        (hostelry("tenants", "list", "--url", "http://127.0.0.1:9", directory=tmp_path), "hostelry serve"),
        (hostelry("db", "restore", "nothing.db", directory=tmp_path), "does not exist"),
        (hostelry("db", "backup", directory=tmp_path), "no store"),
    ]

    for done, word in faults:
        assert done.returncode in (1, 2), done
        assert word in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_everything_outlives_a_kill(tmp_path: Path) -> None:
    """Changes answered with 201 are there after SIGKILL, a revocation too."""
    server = Server(["--port", "0", "--data-dir", str(tmp_path)])
    tenant_server = TenantServer(server.wait_ready(), tmp_path)
    tenant_server.json("tenants", "create", "stays")
    kept, ended = (tenant_server.json("keys", "create", "stays")[0] for _ in range(2))
    tenant_server.json("keys", "revoke", ended["id"])
    server.process.send_signal(signal.SIGKILL)
    server.stop()

    server = Server(["--port", "0", "--data-dir", str(tmp_path)])
    try:
        tenant_server = TenantServer(server.wait_ready(), tmp_path)
        assert [_status(tenant_server.client(each["key"])) for each in (kept, ended)] == [200, 401]
        assert tenant_server.json("audit", "verify") == [{"whole": True, "broken_at": None}]
    finally:
        server.stop()


def test_a_locked_store(tmp_path: Path) -> None:
    """Requests go on, changes get 503, and afterwards changes work again."""
    server = Server(["--port", "0", "--data-dir", str(tmp_path)])
    try:
        tenant_server = TenantServer(server.wait_ready(), tmp_path)
        tenant_server.json("tenants", "create", "waits")
        (key,) = tenant_server.json("keys", "create", "waits")
        blocker = sqlite3.connect(tmp_path / "hostelry.db", isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        refused = tenant_server.run("tenants", "create", "late")
        status = _status(tenant_server.client(key["key"]))
        blocker.execute("ROLLBACK")
        blocker.close()

        assert (refused.returncode, status) == (1, 200)
        assert "503" in refused.stderr
        assert tenant_server.json("tenants", "create", "late")[0]["name"] == "late"
    finally:
        server.stop()


def test_a_full_disk(tmp_path: Path) -> None:
    """Requests that cannot be recorded are not served, nor changes confirmed; with space again nothing is missing."""
    server = Server(["--port", "0", "--data-dir", str(tmp_path)])
    try:
        tenant_server = TenantServer(server.wait_ready(), tmp_path)
        tenant_server.json("tenants", "create", "writes")
        (key,) = tenant_server.json("keys", "create", "writes")
        client, pid = tenant_server.client(key["key"]), server.process.pid
        before = _asked(client)
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        statuses = [_asked(client) for _ in range(4)]
        refused = tenant_server.run("tenants", "create", "lost")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        _wait_until(lambda: _asked(client) == 200)
        (total,) = tenant_server.json("usage", "sum", "--tenant", "writes")

        assert (before, statuses[0], set(statuses[1:])) == (200, 200, {503})
        assert refused.returncode == 1
        assert total["requests"] == 3
        assert "lost" not in [tenant["name"] for tenant in tenant_server.json("tenants", "list")]
        assert tenant_server.json("audit", "verify") == [{"whole": True, "broken_at": None}]
    finally:
        server.stop()


def test_a_damaged_store_ends_the_start(tmp_path: Path) -> None:
    """Status 3, with the check and the command that mends it; and that command does."""
    server = Server(["--port", "0", "--data-dir", str(tmp_path)])
    tenant_server = TenantServer(server.wait_ready(), tmp_path)
    tenant_server.json("tenants", "create", "kept")
    (key,) = tenant_server.json("keys", "create", "kept")
    backup = _backup(tmp_path)
    server.stop()
    file = tmp_path / "hostelry.db"
    file.write_bytes(b"not a database" * 1000)

    broken = Server(["--port", "0", "--data-dir", str(tmp_path)])
    assert broken.wait_exit(20) == 3
    assert "hostelry db restore" in broken.output()
    assert file.read_bytes().startswith(b"not a database")
    done = hostelry("db", "restore", backup, "--data-dir", str(tmp_path), directory=tmp_path)
    assert done.returncode == 0, done.stderr

    server = Server(["--port", "0", "--data-dir", str(tmp_path)])
    try:
        assert _status(TenantServer(server.wait_ready(), tmp_path).client(key["key"])) == 200
        in_use = hostelry("db", "restore", backup, "--data-dir", str(tmp_path), directory=tmp_path)
        assert "stop the server" in in_use.stderr
    finally:
        server.stop()


def _backup(data_dir: Path) -> str:
    done = hostelry("db", "backup", "--data-dir", str(data_dir), directory=data_dir)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _status(client: openai.OpenAI) -> int:
    try:
        client.models.list()
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def _asked(client: openai.OpenAI) -> int:
    try:
        ask(client)
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def _refused(tenant_server: TenantServer, tenant: str) -> float:
    return Counters(tenant_server.url).total("hostelry_requests_total", tenant=tenant, outcome="refused")


def _wait_until(is_so: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_usage_survives_kills(tmp_path: Path) -> None:
    """Every answer that arrived whole is written down once, however often the gateway is killed under load."""
    plan = Plan(kills=6, starts_killed=1)
    seen = kill_under_load(plan, tmp_path, rng("kills"), lambda _: None)

    found = audit(seen, read_books(plan, tmp_path))
    assert found.answered > 20
    assert found.is_exact, found
    assert found.unseen <= plan.kills * plan.clients


def test_old_usage_is_forgotten(tmp_path: Path) -> None:
    """Single requests older than `usage.keep_days` go in the background; their sums stay."""
    config = tmp_path / "hostelry.toml"
    config.write_text("[usage]\nkeep_days = 2\n")
    arguments = ["--port", "0", "--data-dir", str(tmp_path), "--config", str(config)]
    server = Server(arguments)
    tenant_server = TenantServer(server.wait_ready(), tmp_path)
    with tenant_server.client((tmp_path / "default.key").read_text().strip()) as client:
        assert [_asked(client) for _ in range(3)] == [200] * 3
    before = tenant_server.json("usage", "sum")
    server.stop()
    with closing(sqlite3.connect(tmp_path / "hostelry.db")) as store, store:
        store.execute("UPDATE usage SET ended_at = ended_at - 2 * 86400 WHERE rowid < 3")

    server = Server(arguments)
    try:
        tenant_server = TenantServer(server.wait_ready(), tmp_path)
        _wait_until(lambda: len(tenant_server.json("usage", "list")) == 1)
        assert tenant_server.json("usage", "sum") == before
        assert before[0]["requests"] == 3
    finally:
        server.stop()
