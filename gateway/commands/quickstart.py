"""`hostelry quickstart`: the product in one command, seen from outside through the official client."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from gateway.datadir import default_data_dir, first_key
from gateway.demo import MODEL_NAME

QUESTION = "What is the capital of France?"


@click.command("quickstart")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), default=None)
@click.option("--question", default=QUESTION, show_default=True)
@click.option("--once/--stay", default=None, help="End after the answer; default: stay on a terminal only.")
def command(port: int, data_dir: Path | None, question: str, once: bool | None) -> None:
    """Serve the demo model, ask it QUESTION through the official OpenAI client, stream the answer."""
    start = time.monotonic()
    directory = data_dir or default_data_dir()
    key, _ = first_key(directory)
    server = _start_server(port, directory)
    try:
        url = _wait_ready(server)
        _ask(url, key, question, start)
        if once or (once is None and not sys.stdin.isatty()):
            return
        click.echo(f"\nThe server keeps running at {url}/v1 with key {key}; Ctrl-C ends it.")
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=40)


def _start_server(port: int, data_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gateway.cli", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command line


def _wait_ready(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("ready "):
            return line.split()[1]
    raise click.ClickException("the server did not start; its messages are above")


def _ask(url: str, key: str, question: str, start: float) -> None:
    try:
        import openai
    except ImportError:
        raise click.ClickException('the official client is missing: pip install "hostelry[quickstart]"') from None
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
