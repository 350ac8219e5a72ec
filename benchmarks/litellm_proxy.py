"""The LiteLLM proxy in its own environment, run as its documentation recommends for production, without extras.

It keeps neither keys, budgets nor usage here: for these it needs a PostgreSQL server, whose cost is left out.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import venv
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx

from gateway.process.listener import bind, url_of

PIN = "1.106.2"
KEY = "sk-benchmark"
MODEL = "stub"
_READY_WITHIN_S = 120

_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: {upstream}/v1, api_key: none}}
litellm_settings: {{set_verbose: false, request_timeout: 60}}
general_settings: {{master_key: {key}}}
"""
_ENVIRONMENT = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
}


def installed(folder: Path | None = None) -> Path:
    """The command `litellm` of the pinned version, installed into `folder` unless it is there already."""
    folder = folder or Path(tempfile.gettempdir()) / f"hostelry-litellm-{PIN}"
    command = folder / "bin" / "litellm"
    if not command.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", f"litellm[proxy]=={PIN}"], check=True)
    return command


@contextmanager
def litellm_proxy(command: Path, *, upstream: str) -> Generator[tuple[str, int]]:
    """URL and process id of one worker in front of `upstream`. Raises `TimeoutError`, with its log, if none starts."""
    with bind("127.0.0.1", 0) as free:
        url, port = url_of(free), free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        process = _start(command, Path(directory), upstream=upstream, port=port, log=log)
        try:
            _wait_ready(url, process, log)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(timeout=40)


def _start(command: Path, directory: Path, *, upstream: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    config = directory / "config.yaml"
    config.write_text(_CONFIG.format(model=MODEL, upstream=upstream, key=KEY), encoding="utf-8")
    flags = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environment = {**os.environ, **_ENVIRONMENT}
    with log.open("wb") as file:
        return subprocess.Popen([str(command), *flags], stdout=file, stderr=file, cwd=directory, env=environment)


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health/liveliness", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise TimeoutError(f"the LiteLLM proxy did not start; its log ends:\n{log.read_text(errors='replace')[-4000:]}")
