"""Starts that fail and servers that end, compared with a bare start in the same round."""

from __future__ import annotations

import time
from pathlib import Path

from e2e.harness.runners import TIMED
from e2e.harness.running_server import Known, server_arguments
from e2e.harness.server import Server
from e2e.harness.timing import at_most, hold
from e2e.paris_checks import broken
from e2e.paris_checks.broken import Damage

REFUSED = at_most(1.0)
"""A start that only fails has nothing to load, but two processes to end."""
STOPPED = at_most(1.0)


def test_starts_that_fail_are_short(known: Known, tmp_path: Path) -> None:
    """P5: a model that cannot be read ends the start before another is ready, whatever is wrong with it."""
    damages = {f"P5: refusal over a bare start: {each.name}": each for each in broken.damages(tmp_path, known)}
    stop = "life: SIGTERM to the end over a bare start"

    def one_round() -> dict[str, float]:
        ready_s, stop_s = _bare_start(tmp_path, known)
        refusals = {name: _refusal_s(tmp_path, damage) / ready_s for name, damage in damages.items()}
        return refusals | {stop: stop_s / ready_s}

    hold(one_round, dict.fromkeys(damages, REFUSED) | {stop: STOPPED})


def _bare_start(folder: Path, known: Known) -> tuple[float, float]:
    """Seconds until a server with the demo model is ready, and until it has ended."""
    server = Server(server_arguments(folder, {"demo": known.demo.path}, runner=TIMED))
    try:
        server.wait_ready()
    finally:
        stopped = server.stop()
    assert stopped.status == 0, server.log()
    return server.start_s, stopped.seconds


def _refusal_s(folder: Path, damage: Damage) -> float:
    """Seconds from the start of the process to its end."""
    server = Server(server_arguments(folder, {"damaged": damage.path}, runner=TIMED))
    try:
        server.wait_exit()
        return time.monotonic() - server.started
    finally:
        server.stop()
