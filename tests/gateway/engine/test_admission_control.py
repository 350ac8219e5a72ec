"""Admission control: limits, wait estimates and refusals."""

from __future__ import annotations

import contextlib
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import Overloaded, TenantQueueFull, WaitTooLong
from gateway.engine.client_side.admission_control import AdmissionControl
from gateway.engine.config import EngineConfig, Scheduling
from tests.gateway.engine.crowd import Crowd

OPEN = EngineConfig(max_waiting=100, max_waiting_per_tenant=100, ttft_target_s=1e9)


def test_full_room_refuses_and_says_when() -> None:
    """Two served for 4 s each, one waiting: the fourth is told that a place is free every 2 s."""
    crowd = Crowd(places=2, held_s=4.0, max_waiting=1)
    for _ in range(2):
        crowd.come("a")
    crowd.empty()
    for tenant in "abc":
        assert crowd.come(tenant)

    assert not crowd.come("d")

    (refusal,) = crowd.refusals["d"]
    assert type(refusal) is Overloaded
    assert refusal.retry_after_s == pytest.approx(2.0)
    crowd.empty()
    assert (crowd.admission.num_inside, crowd.admission.num_waiting) == (0, 0)


def test_a_tenant_fills_its_own_queue_only() -> None:
    """A tenant whose own queue is full is refused with its own error; another tenant is admitted."""
    crowd = Crowd(places=2, held_s=1.0, max_waiting=4, max_waiting_per_tenant=2)

    came = [crowd.come("greedy") for _ in range(6)]

    assert came == [True] * 4 + [False] * 2
    assert all(isinstance(refusal, TenantQueueFull) for refusal in crowd.refusals["greedy"])
    assert crowd.come("quiet")
    crowd.empty()
    assert crowd.come("greedy")


def test_who_runs_does_not_count_as_waiting() -> None:
    """A tenant whose running requests take all slots still has its whole queue."""
    crowd = Crowd(places=8, held_s=1.0, max_waiting=100, max_waiting_per_tenant=1)
    for _ in range(8):
        crowd.come("a")

    assert crowd.come("a")
    assert not crowd.come("a")


def test_place_is_free_after_an_error() -> None:
    """The slot of a request is free again, whatever ends it."""
    admission = AdmissionControl(OPEN, now=lambda: 0.0)
    with pytest.raises(KeyError), admission.admit(num_served=1):
        raise KeyError

    with admission.admit(num_served=1):
        assert admission.num_inside == 1
    assert admission.num_inside == 0


def test_leaving_twice_is_leaving_once() -> None:
    """An answer that is complete frees its place before its reader has taken it."""
    admission = AdmissionControl(OPEN, now=lambda: 0.0)
    with admission.admit(num_served=1) as first, admission.admit(num_served=1) as second:
        second.leave()
        second.start()

        assert (admission.num_inside, admission.num_waiting) == (1, 0)
        first.start()
    assert admission.num_inside == 0


def test_nothing_measured_admits() -> None:
    """Admission without measurements is bounded by the counts alone."""
    crowd = Crowd(places=2, held_s=100.0, ttft_target_s=0.5)

    assert all(crowd.come("a") for _ in range(50))


def test_nothing_that_starts_is_a_measurement() -> None:
    """All slots are in use for longer than the target allows, and the next is rejected though none has ended."""
    crowd = Crowd(places=2, held_s=1000.0, ttft_target_s=5.0)
    for _ in range(3):
        crowd.come("a")
    crowd.pass_time(9.0)

    assert not crowd.come("a")

    (refusal,) = crowd.refusals["a"]
    assert isinstance(refusal, WaitTooLong)
    assert refusal.retry_after_s == pytest.approx(2 * 9.0 / 2 - 5.0)


@pytest.mark.parametrize(("scheduling", "held_s"), [("fair", 1.0), ("fcfs", 1.0), ("fair", 0.05), ("fair", 8.0)])
def test_a_flood_of_ten_times_the_capacity(scheduling: Scheduling, held_s: float) -> None:
    """Admitted requests wait at most about the target, no slot is ever idle, and the rest are told when to retry."""
    places, target_s = 8, 2 * held_s
    crowd = Crowd(places=places, held_s=held_s, ttft_target_s=target_s, scheduling=scheduling)
    _warm_up(crowd, places)

    for step in range(4000):
        crowd.come("greedy")
        crowd.pass_time(held_s / places / 10)
        assert crowd.num_running == places or step < 2 * places

    waits = crowd.waits["greedy"]
    assert max(waits) <= 1.5 * target_s
    assert sum(waits) / len(waits) >= target_s / 4  # it is used
    assert all(1.0 <= refusal.retry_after_s <= 60.0 for refusal in crowd.refusals["greedy"])
    crowd.empty()
    assert crowd.come("greedy")


def test_a_load_that_becomes_heavy() -> None:
    """Answers take a hundred times as long from now on: the queue shortens before the first of them has ended."""
    crowd = Crowd(places=8, held_s=0.1, ttft_target_s=2.0)
    for _ in range(2000):
        crowd.come("greedy")
        crowd.pass_time(0.01)
    crowd.held_s = 10.0
    for _ in range(3000):
        crowd.come("greedy")
        crowd.pass_time(0.01)

    already = crowd.admission.num_waiting
    refused = len(crowd.refusals["greedy"])
    for _ in range(20):
        crowd.come("greedy")

    assert len(crowd.refusals["greedy"]) == refused + 20
    assert already <= 8 * 20  # the past was not measured


def test_a_flood_does_not_refuse_others() -> None:
    """Another tenant is never rejected during a flood, and waits a turn."""
    crowd = Crowd(places=4, held_s=1.0, ttft_target_s=3.0)
    _warm_up(crowd, 4)

    for step in range(4000):
        crowd.come("greedy")
        if step % 100 == 0:
            assert crowd.come("quiet")
        crowd.pass_time(0.025)

    assert len(crowd.refusals["greedy"]) > 100
    assert max(crowd.waits["quiet"]) <= 1.0


def test_who_is_let_in_does_not_hurry_the_queue() -> None:
    """Requests that skip the queue do not change the wait that is estimated for those in it."""
    now_s = 0.0
    admission = AdmissionControl(
        EngineConfig(max_waiting=100, max_waiting_per_tenant=100, ttft_target_s=5.0), now=lambda: now_s
    )
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(admission.admit(tenant="greedy", num_served=2))
        for _ in range(100):
            with admission.admit(tenant="quiet", num_served=2) as ticket:
                ticket.start()
            now_s += 0.1

        with pytest.raises(WaitTooLong, match="about 10 s"):
            stack.enter_context(admission.admit(tenant="greedy", num_served=2))


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_the_part_of_a_tenant_is_by_weight(weight: float) -> None:
    """Two tenants that flood get estimates by their own shares of the rate of starts."""
    crowd = Crowd(places=4, held_s=1.0, ttft_target_s=5.0)
    _warm_up(crowd, 4)

    for _ in range(3000):
        crowd.come("one")
        crowd.come("other", weight=weight)
        crowd.pass_time(0.025)

    assert max(crowd.waits["one"]) <= 1.5 * 5.0
    assert max(crowd.waits["other"]) <= 1.5 * 5.0
    assert len(crowd.waits["other"]) / len(crowd.waits["one"]) == pytest.approx(weight, rel=0.15)


def test_memory_that_is_short_makes_a_queue() -> None:
    """The estimate covers memory that is short while slots are free; the counts of slots do not."""
    now_s = 0.0
    admission = AdmissionControl(
        EngineConfig(max_waiting=1, max_waiting_per_tenant=1, ttft_target_s=2.0), now=lambda: now_s
    )
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(admission.admit(num_served=8, is_short=True))
        now_s = 10.0

        with pytest.raises(WaitTooLong):
            stack.enter_context(admission.admit(num_served=8, is_short=True))


Move = tuple[Literal["come", "start", "leave", "wait"], int, float]


@given(
    st.sampled_from(["fair", "fcfs"]),
    st.lists(
        st.tuples(st.sampled_from(["come", "start", "leave", "wait"]), st.integers(0, 5), st.floats(0.01, 5.0)),
        max_size=120,
    ),
)
def test_counts_hold_whatever_happens(scheduling: Scheduling, moves: list[Move]) -> None:
    """The limits hold in any order of arrivals, starts and ends; an idle tenant is admitted, and the queue empties."""
    now_s, places = 0.0, 3
    config = EngineConfig(max_waiting=8, max_waiting_per_tenant=4, ttft_target_s=6.0, scheduling=scheduling)
    admission = AdmissionControl(config, now=lambda: now_s)
    inside = []
    for kind, number, amount in moves:
        if kind == "wait":
            now_s += amount
        elif kind == "come":
            tenant, stack = f"t{number % 2}", contextlib.ExitStack()
            with contextlib.suppress(Overloaded):
                ticket = stack.enter_context(admission.admit(tenant=tenant, weight=amount, num_served=places))
                inside.append((tenant, ticket, stack))
        elif inside and kind == "start":
            inside[number % len(inside)][1].start()
        elif inside:
            inside.pop(number % len(inside))[2].close()
        waiting = [tenant for tenant, ticket, _ in inside if ticket.is_waiting]
        assert admission.num_inside == len(inside) <= places + 8
        assert admission.num_waiting == len(waiting)
        assert max(map(waiting.count, waiting), default=0) <= 4

    if scheduling == "fair" and len(inside) < places + 8:
        with admission.admit(tenant="stranger", num_served=places):
            assert admission.num_inside == len(inside) + 1
    for _, _, stack in inside:
        stack.close()
    assert (admission.num_inside, admission.num_waiting) == (0, 0)
    with admission.admit(num_served=places):
        pass


def _warm_up(crowd: Crowd, places: int) -> None:
    for _ in range(places):
        crowd.come("earlier")
    crowd.empty()
