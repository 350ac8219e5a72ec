"""Many tenants at once: words of one never appear in another one's responses, or anywhere else."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest

from e2e.harness.server import Server
from e2e.harness.wire import get
from e2e.test_tenants import MODEL, TenantServer

COUNT = 64


class Guest(msgspec.Struct, frozen=True):
    """A tenant with a unique word; it also names a model of its own by it."""

    name: str
    key: str
    canary: str

    @property
    def alias(self) -> str:
        return f"alias-{self.canary}"

    def toml(self) -> str:
        aliases = f'{{ "{self.alias}" = "{MODEL}" }}'
        return f'[[tenants]]\nname = "{self.name}"\nkeys = ["{self.key}"]\naliases = {aliases}\n'


GUESTS = [Guest(f"guest-{n}", f"sk-ho-{secrets.token_hex(16)}", f"canary{secrets.token_hex(6)}") for n in range(COUNT)]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, TenantServer, dict[str, str]]]:
    """A server after all tenants have used it, and the responses of each."""
    folder = tmp_path_factory.mktemp("crowd")
    config = folder / "hostelry.toml"
    config.write_text("\n".join(caller.toml() for caller in GUESTS))
    server = Server(["--port", "0", "--data-dir", str(folder), "--config", str(config)])
    try:
        tenant_server = TenantServer(server.wait_ready(), folder)
        with ThreadPoolExecutor(COUNT) as pool:
            heard = dict(
                zip(
                    [caller.name for caller in GUESTS],
                    pool.map(lambda g: _visit(tenant_server.url, g), GUESTS),
                    strict=True,
                )
            )
        yield server, tenant_server, heard
    finally:
        server.stop()


def test_answers_hold_own_words_only(crowd: tuple[Server, TenantServer, dict[str, str]]) -> None:
    """Each tenant receives its own canary, in an echo, a name and an error, and no other."""
    _, _, heard = crowd
    for caller in GUESTS:
        strangers = [other.canary for other in GUESTS if other != caller and other.canary in heard[caller.name]]
        assert strangers == []
        assert heard[caller.name].count(caller.canary) >= 4


def test_operators_see_no_prompts(crowd: tuple[Server, TenantServer, dict[str, str]], tmp_path: Path) -> None:
    """Log, metrics, usage and health contain no word of a tenant and no key."""
    server, tenant_server, _ = crowd
    usage = str(tenant_server.json("usage", "list"))
    seen = [server.output(), usage, get(f"{tenant_server.url}/metrics").text, get(f"{tenant_server.url}/health").text]
    seen += [str(tenant_server.json("audit", "list")).replace("alias-canary", "")]

    for caller in GUESTS:
        assert not [text for text in seen[:4] if caller.canary in text]
        assert not [text for text in seen if caller.key in text]
    rows = tenant_server.json("usage", "sum", "--by", "tenant")
    assert {row["tenant_name"]: row["requests"] for row in rows} == {caller.name: 3 for caller in GUESTS}


def test_names_of_others_do_not_exist(crowd: tuple[Server, TenantServer, dict[str, str]]) -> None:
    """An alias of another tenant reads like an unknown name."""
    _, tenant_server, _ = crowd
    first, second = GUESTS[:2]
    headers = {"Authorization": f"Bearer {first.key}"}
    texts = []
    for name in (second.alias, "alias-nobody"):
        answer = httpx.get(f"{tenant_server.url}/v1/models/{name}", headers=headers, timeout=300)
        assert answer.status_code == 404
        texts.append(answer.text.replace(name, "NAME"))

    assert texts[0] == texts[1]


def _visit(url: str, caller: Guest) -> str:
    """Three requests that run, two that fail, and a look around. Everything that came back, headers too."""
    heard = []
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {caller.key}"}, timeout=300) as client:
        for _ in range(2):
            body = {"model": caller.alias, "prompt": f"say {caller.canary}", "echo": True, "max_tokens": 8}
            heard.append(client.post("/v1/completions", json=body))
        messages = [{"role": "user", "content": f"capital of Peru? {caller.canary}"}]
        heard.append(client.post("/v1/chat/completions", json={"model": MODEL, "messages": messages, "max_tokens": 8}))
        assert [answer.status_code for answer in heard] == [200, 200, 200], heard[-1].text
        heard.append(client.post("/v1/completions", json={"model": f"no-{caller.canary}", "prompt": "x"}))
        heard.append(
            client.post("/v1/completions", json={"model": MODEL, "prompt": "x", "stop": caller.canary, "n": 99})
        )
        heard.append(client.get("/v1/models"))
    return "\n".join(answer.text + str(answer.headers) for answer in heard)
