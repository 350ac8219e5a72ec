"""A liar on trial: started like a server, and put to the checks of a suite."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from e2e.harness.running_server import Known, Target, server_arguments
from e2e.harness.server import LIARS, Server


@contextmanager
def lying(lie: str, folder: Path, *, upstream: str = "") -> Generator[Target]:
    """A liar with the tenants and model names of the server."""
    served = dict.fromkeys(("demo", "random", "random-gguf", "counterfactual", "big"), Path("none"))
    arguments = ["--lie", lie, "--upstream", upstream, *server_arguments(folder, served, runner="onnx")]
    server = Server(arguments, command=LIARS)
    try:
        yield Target(url=server.wait_ready())
    finally:
        server.stop()


def rejected(check: Callable[[Target, Known], None], target: Target, known: Known) -> str | None:
    """Reason why the check rejects the target; None if it accepts it."""
    try:
        check(target, known)
    except AssertionError as reason:
        return str(reason) or "assertion"
    except Exception as reason:
        # A liar without a route breaks the client in its own way; that is a rejection too.
        return repr(reason)
    return None
