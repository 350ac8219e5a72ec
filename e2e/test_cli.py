"""The command line as a person meets it: answers, and errors that say how to go on. No traceback anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.harness.server import ROOT, Server

KEY = "sk-ho-command-line-0123456789"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data_dir = tmp_path_factory.mktemp("cli")
    server = Server(["--port", "0", "--data-dir", str(data_dir), "--api-key", KEY])
    try:
        yield server.wait_ready()
    finally:
        server.stop()


def hostelry(*arguments: str, directory: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command from the checkout with an empty home; its status and both outputs."""
    environment = {**os.environ, "HOME": str(directory), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    environment.pop("XDG_DATA_HOME", None)
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        cwd=directory,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_chat_answers_once(url: str, tmp_path: Path) -> None:
    """A question on the command line, the answer on standard output."""
    result = hostelry("chat", "--url", url, "--api-key", KEY, "capital of Kenya", directory=tmp_path)

    assert result.returncode == 0, result.stderr
    assert result.stdout == "The capital of Kenya is Nairobi.\n"


def test_chat_holds_a_conversation(url: str, tmp_path: Path) -> None:
    """Questions from standard input, one a line, until it ends."""
    result = hostelry(
        "chat", "--url", url, "--api-key", KEY, directory=tmp_path, text="capital of Peru\ncapital of Japan\n"
    )

    assert result.returncode == 0, result.stderr
    assert "Lima" in result.stdout
    assert "Tokyo" in result.stdout


def test_top(url: str, tmp_path: Path) -> None:
    """`top` shows what was just served, as JSON and as tables; a server that is not there is reported."""
    question = "Hello! Could you please tell me what the capital of Chile is? Thank you very much!"
    hostelry("chat", "--url", url, "--api-key", KEY, question, directory=tmp_path)
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(
            hostelry, "top", "--url", url, "--interval", "5", "--count", "1", "--json", directory=tmp_path
        )
        for _ in range(3):
            hostelry("chat", "--url", url, "--api-key", KEY, question, directory=tmp_path)
    result = watched.result()
    shown = hostelry("top", "--url", url, "--interval", "0.2", "--count", "1", directory=tmp_path)
    lost = hostelry("top", "--url", "http://127.0.0.1:9", "--count", "1", directory=tmp_path)

    reading = json.loads(result.stdout)
    assert reading["models"][0]["generated_tokens_per_s"] > 0
    assert reading["models"][0]["step_s"] > 0
    assert reading["models"][0]["queue_p95_s"] > 0
    assert reading["models"][0]["kv_share"] == 0
    assert 0 < reading["models"][0]["prefix_hits"] < 1
    assert reading["tenants"][0]["tenant"] == "default"
    for column in ("tok/s", "queue", "TTFT", "KV", "prefix", "preempted"):
        assert column in shown.stdout
    assert (lost.returncode, "hostelry serve" in lost.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--api-key", "sk-wrong-key"], "API key"),
        (["--api-key", KEY, "--model", "gpt-9"], "gpt-9"),
    ],
)
def test_chat_tells_what_the_server_refused(url: str, tmp_path: Path, arguments: list[str], message: str) -> None:
    """The server's own words, not a status code."""
    result = hostelry("chat", "--url", url, *arguments, "hello", directory=tmp_path)

    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_chat_without_a_server_says_so(tmp_path: Path) -> None:
    """The message for a URL without a server names that URL and the command to start one."""
    result = hostelry("chat", "--url", "http://127.0.0.1:9", "hello", directory=tmp_path)

    assert result.returncode == 1
    assert "hostelry serve" in result.stderr


def test_a_taken_port_is_explained(url: str, tmp_path: Path) -> None:
    """The second server ends with the way out."""
    port = int(url.rsplit(":", 1)[1])

    result = hostelry("serve", "--port", str(port), "--api-key", KEY, directory=tmp_path)

    assert result.returncode == 1
    assert f"--port {port + 1}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--host", "0.0.0.0", "--port", "0"], 2, "--api-key"),
        (["--model", "absent.gguf", "--port", "0"], 1, "absent.gguf"),
        (["--config", "absent.toml"], 2, "absent.toml"),
        (["--api-key", "short"], 2, "at least 8"),
        (["--model", "a=x.gguf", "--model", "a=y.gguf", "--port", "0"], 2, "have the same name"),
        (["--model", "a b=x.gguf"], 2, "cannot be a name"),
        (["--backend", "cuda"], 2, "onnx"),
        (["--port", "99999"], 2, "65535"),
    ],
)
def test_serve_refuses_with_a_reason(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    """Every way to start it wrongly ends at once, in words."""
    result = hostelry("serve", "--data-dir", str(tmp_path / "data"), *arguments, directory=tmp_path)

    assert result.returncode == status, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_config_check_names_the_line(tmp_path: Path) -> None:
    """A typo is found with file, line and the nearest key."""
    (tmp_path / "hostelry.toml").write_text('[server]\nprot = 1\n[[models]]\npath = "x"\nmax_bach = 2\n')

    result = hostelry("config", "check", "hostelry.toml", directory=tmp_path)

    assert result.returncode == 2
    assert 'hostelry.toml:2 server.prot: unknown key, did you mean "port"?' in result.stderr
    assert "hostelry.toml:5 models.max_bach" in result.stderr


def test_quickstart_shows_the_log_when_asked(tmp_path: Path) -> None:
    """The answer is on standard output alone; the server's own lines come with --verbose only."""
    quiet, verbose = (
        hostelry("quickstart", "--once", "--port", "0", "--data-dir", "data", *flags, directory=tmp_path)
        for flags in ((), ("--verbose",))
    )

    assert quiet.returncode == verbose.returncode == 0, quiet.stderr
    assert "The capital of France is Paris." in quiet.stdout
    assert "listening http://" not in quiet.stderr
    assert "listening http://" in verbose.stderr


def test_quickstart_tells_why_there_is_no_server(url: str, tmp_path: Path) -> None:
    """The server's messages are shown when it does not start."""
    port = url.rsplit(":", 1)[1]

    result = hostelry("quickstart", "--once", "--port", port, "--data-dir", "data", directory=tmp_path)

    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr
    assert result.stderr.endswith("the server did not start; see its messages above\n")


@pytest.mark.parametrize("verb", ["", "serve", "chat", "doctor", "quickstart", "config", "openapi"])
def test_help_is_short_and_fast(tmp_path: Path, verb: str) -> None:
    """The help of each verb has at most 40 lines."""
    result = hostelry(*verb.split(), "--help", directory=tmp_path)

    assert result.returncode == 0
    assert len(result.stdout.splitlines()) <= 40
