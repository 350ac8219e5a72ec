"""Command `hostelry quickstart`: the product in one command, used through the official client."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import click

from gateway.demo import MODEL_NAME
from gateway.process.data_dir import DEFAULT_KEY, default_data_dir, first_key
from gateway.process.terminal import curl_example
from gateway.tenants.auth.directory import new_key

QUESTION = "What is the capital of France?"


@click.command("quickstart")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), default=None)
@click.option("--question", default=QUESTION, show_default=True)
@click.option("--once/--stay", default=None, help="Exit after the answer; default: keep serving if run in a terminal.")
@click.option("--verbose", is_flag=True, help="Show the server's log.")
def command(port: int, data_dir: Path | None, question: str, once: bool | None, verbose: bool) -> None:
    """Serve the demo model, ask it QUESTION through the official OpenAI client, stream the answer."""
    start = time.monotonic()
    directory = data_dir or default_data_dir()
    key, _ = first_key(directory, make=new_key)
    is_over = once or (once is None and not sys.stdin.isatty())
    click.echo("starting the server with the demo model ...", err=True)
    with tempfile.TemporaryFile() as log:
        server = _start_server(port, directory, log=None if verbose else log)
        try:
            _import_client()  # while the server starts
            url = _wait_ready(server, log)
            _ask(url, key, question, start)
            stored_key = f"$(cat {shlex.quote(str(directory / DEFAULT_KEY))})"
            click.echo(f"\ntry it:\n{curl_example(url, model=MODEL_NAME, key=stored_key)}\n", err=True)
            if is_over:
                click.echo(f"The server has stopped; start it again with: {_program()} serve", err=True)
                return
            click.echo(f"The server is running at {url}/v1 with key {key}; stop it with Ctrl-C.", err=True)
            if server.wait():
                _show(log)
        except KeyboardInterrupt:
            pass
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=40)


def _start_server(port: int, data_dir: Path, *, log: IO[bytes] | None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gateway.cli", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603 - our own command line


def _wait_ready(server: subprocess.Popen[str], log: IO[bytes]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("ready "):
            return line.split()[1]
    server.wait()
    _show(log)
    raise click.ClickException("the server did not start; see its messages above")


def _show(log: IO[bytes]) -> None:
    log.seek(0)
    click.echo(log.read(), err=True, nl=False)


def _program() -> str:
    """The command as it was called: after `make quickstart` it is not on the PATH."""
    return "hostelry" if sys.argv[0].endswith(".py") else sys.argv[0]


def _import_client() -> None:
    try:
        import openai  # noqa: F401 - takes a second, which the server needs anyway
    except ImportError:
        raise click.ClickException('the official client is missing: pip install "hostelry[quickstart]"') from None


def _ask(url: str, key: str, question: str, start: float) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    click.echo(f"\n> {question}")
    stream = client.chat.completions.create(
        model=MODEL_NAME, messages=[{"role": "user", "content": question}], stream=True, temperature=0
    )
    first = None
    for chunk in stream:
        text = chunk.choices[0].delta.content if chunk.choices else None
        if text and first is None:
            first = time.monotonic()
        click.echo(text or "", nl=False)
    click.echo()
    if first is not None:
        click.secho(f"first token {first - start:.1f} s after the command", dim=True)
