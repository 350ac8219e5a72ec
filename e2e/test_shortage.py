"""B9 from outside: a full queue and short memory, on a server of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.batching_checks import shortage
from e2e.harness.crowd import NUM_WAIT, shortage_arguments
from e2e.harness.runners import TIMED
from e2e.harness.running_server import Known, Target
from e2e.harness.server import Server


@pytest.fixture(scope="module")
def short(runner: str, known: Known, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    server = Server(shortage_arguments(tmp_path_factory.mktemp(f"short-{runner}"), known, runner=runner))
    try:
        yield Target(url=server.wait_ready())
    finally:
        server.stop()


@pytest.mark.parametrize("runner", [TIMED], indirect=True)
def test_a_full_queue_says_when_to_come_again(short: Target, known: Known) -> None:
    """40 requests where six fit: the others are refused with `retry-after`, and nothing hangs."""
    shortage.check_b9_queue(short, known, num_wait=NUM_WAIT)


def test_little_memory_makes_requests_wait(short: Target, known: Known) -> None:
    """Ten requests of 248 tokens where 1,024 fit into memory: every answer comes and is right."""
    shortage.check_b9_memory(short, known)
