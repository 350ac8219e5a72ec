"""Host names by which the server may be called, and sites whose pages may call it."""

from __future__ import annotations

import json

import pytest

from gateway.api.hosts import Hosts, hosts_of
from gateway.errors import HostNotAllowed, OriginNotAllowed
from tests.gateway.api.asgi import KEY, Connection, Socket, scope_of
from tests.gateway.api.conftest import ServedApp, build, chat

LOCAL = hosts_of("127.0.0.1", ())


def is_allowed(hosts: Hosts, host: str | None = None, *, origin: str | None = None) -> bool:
    pairs = ((b"host", host), (b"origin", origin))
    try:
        hosts.check([(name, value.encode("latin-1")) for name, value in pairs if value is not None])
    except (HostNotAllowed, OriginNotAllowed):
        return False
    return True


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        (None, True),
        ("localhost", True),
        ("LocalHost:8000", True),
        ("localhost.:8000", True),
        ("app.localhost", True),
        ("127.0.0.1:8000", True),
        ("127.8.9.1", True),
        ("[::1]:8000", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evillocalhost", False),
        ("0.0.0.0:8000", False),
        ("192.168.1.4", False),
        ("[::1", True),
        ("[fe80::1]", False),
        ("localhost/health?", False),
        ("localhost@evil.example", False),
        ("", False),
        ("é", False),
    ],
)
def test_on_this_machine(host: str | None, allowed: bool) -> None:
    """Names that mean this machine to everyone on it, and no others; without the header it is no browser."""
    assert is_allowed(LOCAL, host) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:8000", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost@evil.example", False),
        ("null", False),
        ("", False),
        ("http://[evil", False),
    ],
)
def test_pages(origin: str, allowed: bool) -> None:
    """Pages of this machine only may call the server, under whatever name."""
    assert is_allowed(LOCAL, "127.0.0.1:8000", origin=origin) is allowed


@pytest.mark.parametrize(
    ("bound", "given", "host", "allowed"),
    [
        ("127.0.0.1", ("llm.example",), "LLM.example", True),
        ("127.0.0.1", ("LLM.example",), "llm.example:443", True),
        ("127.0.0.1", ("llm.example",), "llmXexample", False),
        ("127.0.0.1", ("llm.example",), "a.llm.example", False),
        ("127.0.0.1", ("*",), "evil.example", True),
        ("localhost", (), "evil.example", False),
        ("0.0.0.0", (), "llm.example", True),
        ("192.168.1.4", (), "llm.example", True),
        ("192.168.1.4", ("llm.example",), "192.168.1.4:8000", True),
        ("192.168.1.4", ("llm.example",), "other.example", False),
        ("0.0.0.0", ("llm.example",), "0.0.0.0", False),
    ],
)
def test_names_that_are_given(bound: str, given: tuple[str, ...], host: str, allowed: bool) -> None:
    """Configured names are allowed along with the address itself; without any, a server open to other machines accepts
    every name.
    """
    assert is_allowed(hosts_of(bound, given), host) is allowed


def test_every_header_counts() -> None:
    """A right name does not hide a wrong one."""
    with pytest.raises(HostNotAllowed, match=r"'evil\.example'; add it to server\.allowed_hosts"):
        LOCAL.check([(b"host", b"localhost"), (b"host", b"evil.example")])


@pytest.mark.parametrize("path", ["/health", "/metrics", "/openapi.json", "/v1/models", "/v1/chat/completions", "/x"])
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"Host": "evil.example"}, 421, "host_not_allowed"),
        ({"Host": "localhost", "Origin": "http://evil.example"}, 403, "origin_not_allowed"),
    ],
)
async def test_nothing_is_answered(path: str, sent: dict[str, str], status: int, code: str) -> None:
    """Public paths and requests with a key are refused as well."""
    served_app = build(hosts=LOCAL)
    connection = Connection(served_app.app, scope_of(path, headers=sent | {"Authorization": f"Bearer {KEY}"}))
    connection.say({"type": "http.request", "body": json.dumps(chat()).encode(), "more_body": False})

    start, body = await connection.end()

    assert start["status"] == status
    assert json.loads(body["body"])["error"]["code"] == code
    assert served_app.backend.requests == []


async def test_sockets() -> None:
    """Browsers ask no leave for those, so the origin is all there is."""
    served_app = build(hosts=LOCAL)
    headers = {"Authorization": f"Bearer {KEY}", "Host": "localhost"}
    refused = Socket(served_app.app, headers=headers | {"Origin": "https://evil.example"})

    start, _ = await refused.end()

    assert start["status"] == 403
    assert await Socket(served_app.app, headers=headers | {"Origin": "http://localhost:3000"}).open()


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1:8000", 200), ("evil.example", 401)])
async def test_metrics_everywhere(host: str, status: int) -> None:
    """A page that calls this machine by its own name reads no metrics, also where every name is accepted."""
    served_app: ServedApp = build(hosts=hosts_of("0.0.0.0", ()))
    connection = Connection(served_app.app, scope_of("/metrics", method="GET", headers={"Host": host}))

    start, *_ = await connection.end()

    assert start["status"] == status
