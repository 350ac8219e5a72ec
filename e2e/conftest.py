"""Fixtures of all suites: models are made once a run, servers once a run and runner."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from filelock import FileLock

from e2e.harness import models, runners, server, timing
from e2e.harness.counterfactual import counterfactual
from e2e.harness.crowd import crowd_arguments
from e2e.harness.nonce import SEED
from e2e.harness.record import record
from e2e.harness.reference import Reference
from e2e.harness.running_server import Known, Target, server_arguments
from e2e.harness.server import Server, ServerFailed, Stopped
from e2e.paris_checks.broken import Launch

SHARED_SERVERS = ("running_server", "crowd")


class RunningServer(msgspec.Struct, frozen=True, kw_only=True):
    """A running server with all models, and what was seen of it before it was ready."""

    target: Target
    server: Server
    statuses_while_loading: dict[str, tuple[int, ...]]


def pytest_configure() -> None:
    """A run that is told to end still stops its servers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"e2e seed: {SEED} (repeat with HOSTELRY_E2E_SEED={SEED}); runners: {', '.join(runners.present())}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one server run in one worker, so that it is started once; those below `timed` run alone."""
    here = Path(__file__).parent
    for item in items:
        if isinstance(item, pytest.Function) and here in item.path.parents:
            item.add_marker(pytest.mark.xdist_group(_group(item)))
            if here / "timed" in item.path.parents:
                item.add_marker(pytest.mark.timed)
                item.add_marker(pytest.mark.timeout(1800))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Raises `UsageError` where pytest-xdist makes no groups although asked to: servers would start many times."""
    here = Path(__file__).parent
    if session.config.getoption("loadgroup", default=False):
        lost = [item.nodeid for item in session.items if here in item.path.parents and "@" not in item.nodeid]
        if lost:
            raise pytest.UsageError(f"pytest-xdist puts {lost[0]} into no group; install what constraints.txt says")


def _group(item: pytest.Function) -> str:
    shared = [name for name in SHARED_SERVERS if name in item.fixturenames and not hasattr(item.module, name)]
    runner = item.callspec.params.get("runner", "") if hasattr(item, "callspec") else ""
    return f"{shared[0] if shared else item.path.stem} {runner}".strip()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report of a failed test with its seed and what the running servers wrote."""
    report = yield
    if report.failed:
        report.sections.append(("e2e seed", str(SEED)))
        report.sections += [("server", running.log()) for running in server.alive]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if timing.measured_rows:
        terminalreporter.section(f"timed rows, medians of {timing.ROUNDS}; {timing.SLACK:g} of a threshold must hold")
        for row in timing.measured_rows:
            terminalreporter.write_line(str(row))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Folder where all workers of the run build the models together."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "models"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def known(workshop: Path) -> Known:
    """All models and their references. Takes most of a run's set-up time; `e2e/results` says how much."""
    start = time.monotonic()
    tuned, word = counterfactual()
    with FileLock(workshop / "lock"):
        big = _once(workshop / "big", models.big_model)
        random = _once(workshop / "random", models.random_model)
        random_gguf = _once(workshop / "random.gguf", lambda path: models.random_gguf(random, path))
    record("harness", "models", seconds=round(time.monotonic() - start, 1))
    return Known(
        demo=Reference(models.demo_model()),
        counterfactual=Reference(tuned),
        word=word,
        random=Reference(random),
        random_gguf=random_gguf,
        big=big,
    )


def _once(path: Path, make: Callable[[Path], Path]) -> Path:
    return path if path.exists() else make(path)


@pytest.fixture(scope="session", params=runners.present())
def runner(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def running_server(runner: str, known: Known, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server with every model, watched while it loads. It must also stop cleanly at the end."""
    served = {
        "demo": known.demo.path,
        "random": known.random.path,
        "counterfactual": known.counterfactual.path,
        "random-gguf": known.random_gguf,
        "big": known.big,
    }
    folder = tmp_path_factory.mktemp(f"house-{runner}")
    running = Server(server_arguments(folder, served, runner=runner))
    try:
        seen = _watch_loading(running)
        url = running.wait_ready()
        record("harness", f"start of five models on {runner}", seconds=round(time.monotonic() - running.started, 2))
        yield RunningServer(target=Target(url=url), server=running, statuses_while_loading=seen)
    finally:
        stopped = running.stop()
    _assert_stopped_cleanly(stopped, running)


@pytest.fixture(scope="session")
def target(running_server: RunningServer) -> Target:
    return running_server.target


@pytest.fixture(scope="session")
def crowd(known: Known, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for many tenants at once, on the runner whose times count. It must also stop cleanly at the end."""
    running = Server(crowd_arguments(tmp_path_factory.mktemp("crowd"), known, runner=runners.TIMED))
    try:
        running.wait_ready()
        yield running
    finally:
        stopped = running.stop()
    _assert_stopped_cleanly(stopped, running)


@pytest.fixture
def tenant_server(crowd: Server) -> Target:
    return Target(url=crowd.wait_ready())


@pytest.fixture
def launch(runner: str, tmp_path: Path) -> Launch:
    """Starts a server of its own for the named models; the caller stops it."""

    def start(served: dict[str, Path]) -> Server:
        return Server(server_arguments(tmp_path, served, runner=runner))

    return start


def _watch_loading(running: Server) -> dict[str, tuple[int, ...]]:
    """Statuses of both probes and of a chat, from the moment it listens until it says that it is ready."""
    try:
        url = running.wait_listening()
    except ServerFailed:
        return {}
    seen: dict[str, list[int]] = {"live": [], "ready": [], "chat": []}
    with httpx.Client(base_url=url, timeout=300) as client:
        while not running.is_announced("ready") and running.process.poll() is None:
            seen["live"].append(client.get("/health/live").status_code)
            seen["ready"].append(client.get("/health/ready").status_code)
            seen["chat"].append(client.post("/v1/chat/completions", json={}).status_code)
            time.sleep(0.05)  # a probe's own interval, not a wait for something
    return {name: tuple(statuses) for name, statuses in seen.items()}


def _assert_stopped_cleanly(stopped: Stopped, running: Server) -> None:
    """The server stopped by itself: one that has to be killed has another status. `e2e/timed` checks how soon."""
    assert stopped.status == 0, f"status {stopped.status}\n{running.log()}"
    assert not stopped.orphans, stopped.orphans
    assert stopped.port_free, "the port is still taken"
