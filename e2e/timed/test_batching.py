"""Time bars of batching, on the engine that serves a CPU by default: medians of interleaved rounds."""

from __future__ import annotations

from e2e.batching_checks import conservation, fairness, joining, prefixes, speed
from e2e.harness.counters import Counters
from e2e.harness.crowd import GUESTS
from e2e.harness.record import record
from e2e.harness.running_server import Known, Target
from e2e.harness.server import Server
from e2e.harness.timing import hold

MEMORY_GROWTH = 0.05


def test_streams_together_are_faster(tenant_server: Target) -> None:
    """B1, B2: eight and sixteen streams over one, and over the same eight where one sequence runs at a time."""
    speed.warm_up(tenant_server)

    hold(lambda: speed.gains(tenant_server) | speed.gain_over_control(tenant_server), speed.GAINS | speed.CONTROL)


def test_those_that_come_together_run_together(tenant_server: Target) -> None:
    """B5: eight that are asked for at once share their steps."""
    hold(lambda: conservation.mean_batch(tenant_server), conservation.TOGETHER)


def test_who_joins_does_not_wait(tenant_server: Target) -> None:
    """B4: a first token comes within steps, and a running answer continues along with a prompt of 1,000 tokens."""
    hold(lambda: joining.flow(tenant_server), joining.FLOW)


def test_a_light_tenant_beside_64_requests(tenant_server: Target) -> None:
    """B8: its requests start within twice their time alone and a step: others are preempted for it."""
    hold(lambda: fairness.wait_beside_flood(tenant_server), fairness.WAIT)

    assert _preempted(tenant_server, "few") >= 1


def test_first_come_first_served_is_not_fair(tenant_server: Target) -> None:
    """B8: the control violates the claims of the fair order, so the check can fail."""
    waits = fairness.measured_waits(tenant_server, model="few-fcfs")

    assert waits.gave_up or waits.over_limit > 1, waits
    assert _preempted(tenant_server, "few-fcfs") == 0


def test_a_cached_beginning_answers_sooner(tenant_server: Target) -> None:
    """B10: 90 % of a long prompt known, a quarter of the time to the first token; for another tenant it is cold."""
    prefixes.warm_up(tenant_server)

    hold(lambda: prefixes.sooner(tenant_server), prefixes.SOONER)


def test_many_tenants_are_as_fast_as_one(tenant_server: Target, crowd: Server, known: Known) -> None:
    """B11: 64 streams of 8, 16 and 64 tenants make as many tokens a second as those of one, in the same memory."""
    speed.tokens_per_s(tenant_server, len(GUESTS), keys=GUESTS[:1], tokens=speed.CROWD_TOKENS)
    before = crowd.resident_bytes()

    hold(lambda: speed.shares_of_tenants(tenant_server, GUESTS), speed.SHARES)

    grown = (crowd.resident_bytes() - before) / (known.big / "model.safetensors").stat().st_size
    record("batching", "memory of 64 tenants", part_of_model=round(grown, 4))
    assert grown <= MEMORY_GROWTH, f"grown by {grown:.1%} of the model"


def _preempted(target: Target, model: str) -> float:
    return Counters(target.url).total("hostelry_engine_preempted_total", model=model)
