"""Starting and stopping: honest probes, a clean drain, nothing left behind."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx
import msgspec
import psutil

from backends.testing.fake import FAULTS_VARIABLE, FakeFaults
from e2e.conftest import RunningServer
from e2e.harness.counters import Counters
from e2e.harness.record import record
from e2e.harness.runners import ONE
from e2e.harness.running_server import KEYS, Known, Target, server_arguments
from e2e.harness.server import Server, is_port_free
from e2e.harness.shape import assert_error
from e2e.harness.wire import Stream, ask, chat_text, get, post, post_ok, stream

QUESTION = "What is the capital of France?"
LONG = 400


@ONE
def test_ready_means_ready(running_server: RunningServer) -> None:
    """The server is live and returns 503 for `ready` while models load; nothing is served before."""
    seen = running_server.statuses_while_loading

    assert seen, "nothing could be asked before the server was ready"
    assert set(seen["live"]) == {200}
    assert seen["ready"][0] == 503
    assert set(seen["ready"]) <= {200, 503}
    assert 200 not in seen["chat"]
    for path in ("/health/live", "/health/ready", "/health"):
        response = get(running_server.target.url + path)
        assert response.status_code == 200, f"{path}: {response.text}"
        assert response.headers.get("x-request-id"), path


def test_only_the_port_listens(running_server: RunningServer) -> None:
    """One listening socket on loopback, in the whole family of processes."""
    family = [psutil.Process(running_server.server.process.pid), *running_server.server.children()]
    listening = [
        connection.laddr
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert {(address.ip, address.port) for address in listening} == {
        ("127.0.0.1", httpx.URL(running_server.target.url).port)
    }


@ONE
def test_request_ids(target: Target) -> None:
    """A client's request id comes back if it is a sane one, and is replaced if it is not."""
    url = f"{target.api}/models"

    kept = httpx.get(url, headers={"Authorization": f"Bearer {KEYS.acme}", "x-request-id": "my-id_42"})
    replaced = httpx.get(url, headers={"Authorization": f"Bearer {KEYS.acme}", "x-request-id": "a b;c" * 60})

    assert kept.headers["x-request-id"] == "my-id_42"
    assert replaced.headers["x-request-id"] != "a b;c" * 60
    assert replaced.headers["x-request-id"]


@ONE
def test_keys_stay_out_of_the_log(running_server: RunningServer) -> None:
    """No key is in the log, whatever was asked so far, with good keys and bad ones."""
    for key in (KEYS.acme, KEYS.disabled):
        get(f"{running_server.target.api}/models", key)

    log = running_server.server.output()

    assert not [key for key in msgspec.structs.astuple(KEYS) if key in log]


def test_defaults_serve_the_demo(tmp_path: Path, known: Known) -> None:
    """No model and one key given: the bundled model, tenant `default`, and SIGINT ends it like SIGTERM."""
    server = Server(["--port", "0", "--data-dir", str(tmp_path), "--api-key", "sk-ho-default-0123456789"])
    try:
        target = Target(url=server.wait_ready())
        record("harness", "start of the demo model", seconds=round(time.monotonic() - server.started, 2))
        answer = post_ok(
            f"{target.api}/chat/completions", ask(QUESTION, model="hostelry-demo"), "sk-ho-default-0123456789"
        )
        stranger = post(f"{target.api}/chat/completions", ask(QUESTION, model="hostelry-demo"), KEYS.acme)
        family = server.children()
        server.process.send_signal(signal.SIGINT)
        status = server.wait_exit()
    finally:
        server.stop()

    assert chat_text(answer) == known.demo.chat(QUESTION).text
    assert_error(stranger, 401, code="invalid_api_key")
    assert status == 0, server.log()
    assert not [process for process in family if process.is_running()]
    assert is_port_free(target.url)


def test_first_start_creates_a_key(tmp_path: Path) -> None:
    """One to ask with, printed once; one for the operator, never printed; both private, and kept for the next start."""
    files = [tmp_path / "data" / name for name in ("default.key", "admin.key")]
    logs = []
    for _ in range(2):
        server = Server(["--port", "0", "--data-dir", str(tmp_path / "data")])
        try:
            url = server.wait_ready()
            key, admin = (file.read_text(encoding="utf-8").strip() for file in files)
            post_ok(f"{url}/v1/chat/completions", ask(QUESTION, model="hostelry-demo", max_tokens=1), key)
            assert get(f"{url}/admin/v1/tenants", admin).status_code == 200
        finally:
            server.stop()
        logs.append(server.output())

    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    assert key in logs[0]
    assert key not in logs[1]
    assert admin not in logs[0] + logs[1]


def test_a_fallback_is_loud(tmp_path: Path) -> None:
    """An engine that could not have its device says so at start, in `/health` and as a metric, not only once."""
    told = "a device was asked for, the CPU serves"
    server = Server(
        ["--port", "0", "--data-dir", str(tmp_path), "--api-key", KEYS.acme, "--backend", "fake"],
        environment={FAULTS_VARIABLE: msgspec.json.encode(FakeFaults(fallback=told)).decode()},
    )
    try:
        url = server.wait_ready()
        health = get(f"{url}/health").json()
        metrics = get(f"{url}/metrics").text
    finally:
        server.stop()

    assert server.output().count(told) >= 2, "the log and the start of the server tell it"
    assert health["fallbacks"] == [{"name": "hostelry-demo", "detail": told}]
    assert 'hostelry_engine_fallbacks{model="hostelry-demo"} 1.0' in metrics


def test_sigterm_drains(tmp_path: Path, known: Known, runner: str) -> None:
    """A stream that runs when SIGTERM comes is finished; the process ends with 0 soon after and leaves nothing."""
    server = Server(server_arguments(tmp_path, {"demo": known.demo.path}, runner=runner))
    finished: list[tuple[Stream, float]] = []

    def read(url: str) -> None:
        body = ask("Count to 30.", max_tokens=LONG, ignore_eos=True)
        finished.append((stream(f"{url}/v1/chat/completions", body, KEYS.acme), time.monotonic()))

    try:
        target = Target(url=server.wait_ready())
        job = threading.Thread(target=read, args=(target.url,), daemon=True)
        job.start()
        _wait_running(target)
    finally:
        stopped = server.stop()
    ended = time.monotonic()
    job.join(60)

    assert stopped.status == 0, server.log()
    assert not stopped.orphans
    assert stopped.port_free
    ((seen, last),) = finished
    assert seen.arrivals[-1].payload == "[DONE]", seen.raw[-300:]
    assert seen.finish_reasons == ["length"]
    assert ended - last <= server.start_s, f"{ended - last:.1f} s after its last stream\n{server.log()}"


def _wait_running(target: Target) -> None:
    deadline = time.monotonic() + 60
    while not Counters(target.url).total("hostelry_engine_running"):
        assert time.monotonic() < deadline, "the request never ran"
