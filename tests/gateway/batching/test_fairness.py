"""Fairness between tenants, in simulated time, with first come first served as the control."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.batching.admission import AdmissionOrder, FirstComeFirstServed
from gateway.batching.fairness import CLAIM_LAG, PRIORITY_LEAD, URGENT_LEAD, FairShare
from gateway.batching.sequence import URGENT_WITHIN_S
from tests.gateway.batching.simulation import Job, Simulation

ORDERS: tuple[type[FairShare], type[FirstComeFirstServed]] = (FairShare, FirstComeFirstServed)


def backlog(weights: dict[str, float], *, count: int = 400, seed: int = 0) -> list[Job]:
    """All at once: far more than can run, of uneven lengths, the first tenant's before the second's."""
    chance = random.Random(seed)
    return [
        Job(
            tenant=tenant,
            weight=weight,
            num_prompt=chance.randint(1, 60),
            max_tokens=chance.randint(1, 60),
        )
        for tenant, weight in weights.items()
        for _ in range(count)
    ]


def simulate(order: AdmissionOrder, jobs: list[Job], *, until: float = 1e9) -> Simulation:
    simulation = Simulation(order)
    simulation.run(jobs, until=until)
    return simulation


def jain(shares: list[float]) -> float:
    """1 is equal, 1/n is one that has everything. Jain, Chiu and Hawe, 1984."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def test_equal_weights_get_equal_service() -> None:
    """Service is equal however many requests came at once, and before the others; the control ignores that."""
    jobs = backlog(dict.fromkeys("abcd", 1.0))
    fair, control = (simulate(order(), jobs, until=20.0) for order in ORDERS)

    assert jain([fair.served[tenant] for tenant in "abcd"]) >= 0.999
    assert jain([control.served[tenant] for tenant in "abcd"]) < 0.5


def test_weights() -> None:
    """Service is shared as they say, within five parts in a hundred."""
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    simulation = simulate(FairShare(), backlog(weights), until=25.0)
    total = sum(simulation.served.values())

    for tenant, weight in weights.items():
        assert simulation.served[tenant] / total == pytest.approx(weight / 8, rel=0.05)


def test_a_light_tenant_beside_a_flood() -> None:
    """One request a second among sixty-four at once: its first token comes as on an idle engine; not in the control."""
    flood = [Job(tenant="flood", num_prompt=100, max_tokens=200) for _ in range(64)]
    light = [Job(tenant="light", at=1.0 + second, max_tokens=10) for second in range(8)]
    first = {
        "alone": simulate(FairShare(), light).first_token_s,
        "fair": simulate(FairShare(), light + flood).first_token_s,
        "control": simulate(FirstComeFirstServed(), light + flood).first_token_s,
    }
    waits = {name: max(found[number] for number in range(len(light))) for name, found in first.items()}
    step = 0.010 + 8 * (0.0005 + 0.0002) + 64 * 0.0002
    assert waits["fair"] <= 2 * waits["alone"] + step
    assert waits["control"] > 10 * waits["fair"]


def test_throughput() -> None:
    """Fairness costs less than one part in a hundred of what the control makes."""
    jobs = backlog(dict.fromkeys("abcd", 1.0), count=100)
    fair, control = (simulate(order(), jobs).now for order in ORDERS)

    assert fair <= control / 0.99


def test_nobody_saves_up() -> None:
    """A tenant that idled for long gets its part from now on, not what it missed."""
    busy = [Job(tenant="busy") for _ in range(800)]
    late = [Job(tenant="late", at=10.0) for _ in range(400)]
    simulation = Simulation(FairShare())
    simulation.run(busy + late, until=10.0)
    before = simulation.served["busy"]
    simulation = simulate(FairShare(), busy + late, until=16.0)

    gained = simulation.served["busy"] - before
    assert gained == pytest.approx(simulation.served["late"], rel=0.1)


def test_priority_is_a_bounded_lead() -> None:
    """The higher one is served first by that much, then both alike."""
    jobs = [Job(tenant="high", priority=1) for _ in range(600)] + [Job(tenant="low") for _ in range(600)]
    simulation = simulate(FairShare(), jobs, until=20.0)

    lead = simulation.served["high"] - simulation.served["low"]
    assert PRIORITY_LEAD * 0.5 <= lead <= PRIORITY_LEAD * 1.2


def test_thousands_that_came_and_went() -> None:
    """Tenants without requests are forgotten; of ten thousand tenants with one request each, all are served."""
    order = FairShare()
    simulation = simulate(order, [Job(tenant=f"t{n}", num_prompt=2, max_tokens=1) for n in range(10_000)])

    assert len(simulation.ended_at) == 10_000
    assert len(order._tenants) == 0


jobs = st.builds(
    Job,
    tenant=st.sampled_from("abcdef"),
    at=st.floats(0, 3),
    num_prompt=st.integers(1, 150),
    max_tokens=st.integers(1, 40),
    weight=st.sampled_from([0.5, 1.0, 3.0]),
    priority=st.integers(-3, 3),
)


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=60, deadline=None)
@given(st.lists(jobs, max_size=60))
def test_everybody_ends_and_no_place_idles(order: type[FairShare], arriving: list[Job]) -> None:
    """Conservation: each job ends once with all of its service. Work conservation: no job waits for a free slot."""
    simulation = simulate(order(), arriving)

    assert len(simulation.ended_at) == len(arriving)
    assert simulation.num_idle_places == 0
    wanted = sum(job.num_prompt + 2 * (job.max_tokens - 1) for job in arriving)
    assert sum(simulation.served.values()) == wanted
    assert simulation.scheduler.num_waiting == simulation.scheduler.num_running == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 150), st.integers(1, 40)), min_size=40, max_size=80), st.floats(0.5, 3))
def test_the_bound_between_backlogged_tenants(sizes: list[tuple[int, int]], until: float) -> None:
    """Service of two that always wait differs by no more than what runs at once: theorem 4.4 of the paper."""
    jobs = [Job(tenant=tenant, num_prompt=p, max_tokens=m) for tenant in "ab" for p, m in sizes]
    simulation = simulate(FairShare(), jobs, until=until)
    if simulation.scheduler.num_waiting < len(sizes):  # one of them may have run dry
        return
    most = 8 * max(p + 2 * m for p, m in sizes)

    assert abs(simulation.served["a"] - simulation.served["b"]) <= 2 * most


def starts(simulation: Simulation) -> list[int]:
    """Jobs in the order of their first tokens."""
    return sorted(simulation.first_token_s, key=lambda number: simulation.first_token_s[number])


def test_a_near_deadline_overtakes_its_own_queue() -> None:
    """A request with a near deadline overtakes its tenant's queue by the lead at most, so no other request is left
    behind for ever.
    """
    patient = [Job(tenant="a") for _ in range(200)]
    simulation = simulate(FairShare(), [*patient, Job(tenant="a", deadline_s=0.0)])
    place = starts(simulation).index(200)

    assert 200 - URGENT_LEAD - 8 <= place <= 200 - URGENT_LEAD + 8


def test_a_far_deadline_is_none() -> None:
    """A request with a far deadline waits its turn."""
    patient = [Job(tenant="a") for _ in range(100)]
    simulation = simulate(FairShare(), [*patient, Job(tenant="a", deadline_s=URGENT_WITHIN_S)])

    assert starts(simulation)[-1] == 100


def test_a_tenant_in_a_hurry_gets_a_bounded_lead() -> None:
    """One that marks all of its requests urgent is ahead by a step of priority, and no further."""
    jobs = [
        Job(tenant=tenant, num_prompt=40, max_tokens=40, deadline_s=deadline_s)
        for tenant, deadline_s in (("calm", None), ("hasty", 0.0))
        for _ in range(600)
    ]
    longest = 40 + 2 * 40

    for until in (5.0, 20.0, 60.0):
        served = simulate(FairShare(), jobs, until=until).served
        assert 0 < served["hasty"] - served["calm"] <= PRIORITY_LEAD + 2 * 8 * longest


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.floats(0, 12)), st.integers(1, 30)),
        min_size=1,
        max_size=60,
    )
)
def test_whatever_the_deadlines_all_are_served(jobs: list[tuple[str, float | None, int]]) -> None:
    """Nothing is lost, and no slot stays free while a sequence waits."""
    simulation = simulate(
        FairShare(), [Job(tenant=tenant, deadline_s=left, num_prompt=length) for tenant, left, length in jobs]
    )

    assert set(simulation.ended_at) == set(range(len(jobs)))
    assert simulation.num_idle_places == 0


def test_tenants_that_compete_for_long_do_not_push_each_other_out() -> None:
    """Places become free often enough, so nearly nothing is computed twice; and they get the same all the while."""
    jobs = [Job(tenant=tenant, num_prompt=16, max_tokens=16) for _ in range(100) for tenant in "abcdef"]
    simulation = simulate(FairShare(), jobs, until=20.0)

    assert simulation.scheduler.num_preempted <= 6
    assert jain([simulation.served[tenant] for tenant in "abcdef"]) >= 0.999


def test_who_lags_pushes_one_out() -> None:
    """A tenant that waited all along gets a place from one whose answers do not end, once it is behind."""
    long = [Job(tenant="a", num_prompt=4, max_tokens=1000) for _ in range(20)]
    short = [Job(tenant="b", at=0.1, num_prompt=4, max_tokens=4) for _ in range(10)]
    simulation = simulate(FairShare(), [*long, *short])

    ended = [simulation.ended_at[number] for number in range(20, 30)]
    steps_to_lag = CLAIM_LAG / (2 * 8)
    assert max(late - early for early, late in pairwise(sorted(ended))) <= 3 * steps_to_lag * 0.016
