"""Fixtures of all suites: models and servers are made once a run."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from e2e.harness import models, runners, server
from e2e.harness.crowd import crowd_arguments
from e2e.harness.house import Known, Target, house_arguments
from e2e.harness.nonce import SEED, invented_word
from e2e.harness.record import record
from e2e.harness.reference import Reference
from e2e.harness.server import Server, ServerFailed, Stopped
from e2e.paris_checks.broken import Launch


class House(msgspec.Struct, frozen=True, kw_only=True):
    """A running server with all models, and what was seen of it before it was ready."""

    target: Target
    server: Server
    statuses_while_loading: dict[str, tuple[int, ...]]


def pytest_configure() -> None:
    """A run that is told to end still stops its servers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"e2e seed: {SEED} (repeat with HOSTELRY_E2E_SEED={SEED}); runners: {', '.join(runners.present())}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Below a failed test: its seed and what the running servers wrote."""
    report = yield
    if report.failed:
        report.sections.append(("e2e seed", str(SEED)))
        report.sections += [("server", running.log()) for running in server.alive]
    return report


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models of the run are built."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def known(workshop: Path) -> Known:
    """All models and their references. Takes most of a run's set-up time; `e2e/results` says how much."""
    start = time.monotonic()
    word = invented_word()
    tuning = models.start_counterfactual(workshop / "counterfactual", word)
    big = models.big_model(workshop / "big")
    random = models.random_model(workshop / "random")
    random_gguf = models.random_gguf(random, workshop / "random.gguf")
    models.wait_counterfactual(tuning)
    record("harness", "models", seconds=round(time.monotonic() - start, 1))
    return Known(
        demo=Reference(models.demo_model()),
        counterfactual=Reference(workshop / "counterfactual"),
        word=word,
        random=Reference(random),
        random_gguf=random_gguf,
        big=big,
    )


@pytest.fixture(scope="session", params=runners.present())
def runner(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def house(runner: str, known: Known, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One server with every model, watched while it loads. It must also stop cleanly at the end."""
    served = {
        "demo": known.demo.path,
        "random": known.random.path,
        "counterfactual": known.counterfactual.path,
        "random-gguf": known.random_gguf,
        "big": known.big,
    }
    folder = tmp_path_factory.mktemp(f"house-{runner}")
    running = Server(house_arguments(folder, served, runner=runner))
    try:
        seen = _watch_loading(running)
        url = running.wait_ready(90)
        record("harness", f"start of four models on {runner}", seconds=round(time.monotonic() - running.started, 2))
        yield House(target=Target(url=url), server=running, statuses_while_loading=seen)
    finally:
        stopped = running.stop()
    _assert_stopped_cleanly(stopped, running)


@pytest.fixture(scope="session")
def target(house: House) -> Target:
    return house.target


@pytest.fixture(scope="session")
def crowd(runner: str, known: Known, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for many tenants at once. It must also stop cleanly at the end."""
    running = Server(crowd_arguments(tmp_path_factory.mktemp(f"crowd-{runner}"), known, runner=runner))
    try:
        running.wait_ready(90)
        yield running
    finally:
        stopped = running.stop()
    _assert_stopped_cleanly(stopped, running)


@pytest.fixture
def launch(runner: str, tmp_path: Path) -> Launch:
    """Starts a server of its own for the named models; the caller stops it."""

    def start(served: dict[str, Path]) -> Server:
        return Server(house_arguments(tmp_path, served, runner=runner))

    return start


def _watch_loading(running: Server) -> dict[str, tuple[int, ...]]:
    """Statuses of both probes and of a chat, from the moment it listens until it says that it is ready."""
    try:
        url = running.wait_listening()
    except ServerFailed:
        return {}
    seen: dict[str, list[int]] = {"live": [], "ready": [], "chat": []}
    with httpx.Client(base_url=url, timeout=5) as client:
        while not running.is_announced("ready") and running.process.poll() is None:
            seen["live"].append(client.get("/health/live").status_code)
            seen["ready"].append(client.get("/health/ready").status_code)
            seen["chat"].append(client.post("/v1/chat/completions", json={}).status_code)
            time.sleep(0.05)  # a probe's own interval, not a wait for something
    return {name: tuple(statuses) for name, statuses in seen.items()}


def _assert_stopped_cleanly(stopped: Stopped, running: Server) -> None:
    assert stopped.status == 0, f"status {stopped.status}\n{running.log()}"
    assert stopped.seconds <= 10, f"took {stopped.seconds:.1f} s to stop\n{running.log()}"
    assert not stopped.orphans, stopped.orphans
    assert stopped.port_free, "the port is still taken"
