"""The front door from outside: guesses, names of other servers, pages of other sites, and keys in places they must not
be."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from e2e.harness.server import Server
from e2e.harness.shape import assert_error
from e2e.test_tenants import Inn

WRONG_A_MINUTE = 5
KEY = "sk-ho-door-0123456789abcdef"
CONFIG = f"""\
[server]
max_wrong_keys_per_minute = {WRONG_A_MINUTE}
allowed_hosts = ["llm.example"]

[[tenants]]
name = "acme"
keys = ["{KEY}"]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Inn]]:
    folder = tmp_path_factory.mktemp("door")
    config = folder / "hostelry.toml"
    config.write_text(CONFIG)
    server = Server(["--port", "0", "--data-dir", str(folder), "--config", str(config)])
    try:
        yield server, Inn(server.wait_ready(), folder)
    finally:
        server.stop()


@pytest.fixture
def inn(served: tuple[Server, Inn]) -> Inn:
    return served[1]


def ask(inn: Inn, path: str, key: str | None = KEY, **headers: str) -> httpx.Response:
    sent = headers | ({"Authorization": f"Bearer {key}"} if key else {})
    return httpx.get(inn.url + path, headers=sent, timeout=30)


@pytest.mark.parametrize("path", ["/health", "/metrics", "/openapi.json", "/v1/models"])
def test_names_and_pages(path: str, inn: Inn) -> None:
    """A page that has its name point here reads nothing, with a key neither; by other names all can be read."""
    port = inn.url.rpartition(":")[2]
    for host in (f"evil.example:{port}", "llm.example.evil", "sub.llm.example", "169.254.169.254"):
        assert_error(ask(inn, path, Host=host), 421, code="host_not_allowed")
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        assert_error(ask(inn, path, Origin=origin), 403, code="origin_not_allowed")

    good = [ask(inn, path, Host=host) for host in (f"localhost:{port}", "LLM.example", f"[::1]:{port}")]
    good.append(ask(inn, path, Origin="http://localhost:3000"))
    assert [answer.status_code for answer in good] == [200] * 4
    assert not [answer for answer in good if "access-control-allow-origin" in answer.headers]


def test_guessing(inn: Inn) -> None:
    """Wrong keys are soon 429, whatever is told of who sends them; the right key is good all the while."""
    statuses = []
    for number in range(3 * WRONG_A_MINUTE):
        answer = ask(inn, "/v1/models", f"sk-ho-guess-{number:016}", **{"X-Forwarded-For": f"203.0.113.{number}"})
        statuses.append(answer.status_code)
        assert ask(inn, "/v1/models").status_code == 200
    refused = ask(inn, "/v1/models", "sk-ho-wrong-0123456789")
    with inn.client("sk-ho-wrong-0123456789", max_retries=2) as client, pytest.raises(openai.RateLimitError):
        client.models.list()

    assert statuses == [401] * WRONG_A_MINUTE + [429] * 2 * WRONG_A_MINUTE
    assert_error(refused, 429, code="rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert ask(inn, "/v1/models", None).status_code == 401
