"""Many tenants on one server, from outside: what running together gains, who waits, and what a full server does."""

from __future__ import annotations

import psutil
import pytest

from e2e.batching_checks import fairness, shortage, speed
from e2e.harness.counters import Counters
from e2e.harness.crowd import GUESTS, NUM_WAIT
from e2e.harness.house import Known, Target
from e2e.harness.record import record
from e2e.harness.runners import TIMED
from e2e.harness.server import Server

MEMORY_GROWTH = 0.05


@pytest.fixture
def inn(crowd: Server) -> Target:
    return Target(url=crowd.wait_ready())


@pytest.fixture
def timed_inn(inn: Target, runner: str) -> Target:
    """Where times are held to what batching promises."""
    if runner != TIMED:
        pytest.skip(f"not verified: times on a CPU are held on {TIMED}, not on {runner}")
    return inn


def test_streams_together_are_faster(timed_inn: Target, known: Known) -> None:
    """B1: eight streams make 2.2 times as many tokens a second as one, sixteen 3.5 times."""
    speed.check_b1(timed_inn, known)


def test_one_at_a_time_is_slower(timed_inn: Target, known: Known) -> None:
    """B2: the same eight streams take twice as long where one sequence runs at a time."""
    speed.check_b2(timed_inn, known)


def test_a_light_tenant_beside_64_requests(timed_inn: Target, known: Known) -> None:
    """B8: its requests, one a second, start within twice their time alone and a step: others make room for it."""
    fairness.check_b8(timed_inn, known)

    assert _preempted(timed_inn, "few") >= 1


def test_first_come_first_served_is_not_fair(timed_inn: Target) -> None:
    """B8: the control violates what the fair order holds, so the check can fail."""
    waits = fairness.measured_waits(timed_inn, model="few-fcfs")

    assert not waits.is_fair, waits
    assert _preempted(timed_inn, "few-fcfs") == 0


def test_a_full_queue_says_when_to_come_again(inn: Target, known: Known) -> None:
    """B9: 40 requests where six fit: the others are refused with `retry-after`, and nothing hangs."""
    shortage.check_b9_queue(inn, known, num_wait=NUM_WAIT)


def test_little_memory_makes_requests_wait(inn: Target, known: Known) -> None:
    """B9: ten requests of 248 tokens where 1,024 fit into memory: every answer comes and is right."""
    shortage.check_b9_memory(inn, known)


def test_many_tenants_are_as_fast_as_one(timed_inn: Target, crowd: Server, known: Known) -> None:
    """B11: 64 streams of 8, 16 and 64 tenants make as many tokens a second as those of one, in the same memory."""
    speed.tokens_per_s(timed_inn, len(GUESTS), keys=GUESTS[:1])
    before = _resident(crowd)

    speed.check_b11(timed_inn, GUESTS)

    grown = (_resident(crowd) - before) / (known.big / "model.safetensors").stat().st_size
    record("batching", "memory of 64 tenants", part_of_model=round(grown, 4))
    assert grown <= MEMORY_GROWTH, f"grown by {grown:.1%} of the model"


def _preempted(target: Target, model: str) -> float:
    return Counters(target.url).total("hostelry_engine_preempted_total", model=model)


def _resident(server: Server) -> int:
    family = [psutil.Process(server.process.pid), *server.children()]
    return sum(int(process.memory_info().rss) for process in family)
