"""Requests and tokens a minute, and requests at once."""

from __future__ import annotations

import pytest

from gateway.errors import InvalidRequest, RateLimited
from gateway.tenants.limits.budgets import NOTHING, Amount
from gateway.tenants.limits.limits import Limiter, Reservation
from gateway.tenants.limits.prices import FREE
from gateway.tenants.limits.subjects import Bounds, bounds_of
from gateway.tenants.policy import NO_LIMITS, Caller, Key, Limits, Policy, Tenant


class Clock:
    """Monotonic seconds, by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(now=clock)


def caller_of(tenant: Limits = NO_LIMITS, key: Limits = NO_LIMITS, *, name: str = "acme", **models: Limits) -> Caller:
    policy = Policy(limits=tenant, model_limits=models)
    return Caller(tenant=Tenant(id=name, name=name, policy=policy), key=Key(id=f"k-{name}", tenant_id=name, limits=key))


def enter(limiter: Limiter, caller: Caller, tokens: int = 0, model: str = "demo") -> Reservation:
    reservation = limiter.enter(caller, model)
    reservation.take(Amount(tokens))
    return reservation


def test_requests_of_a_burst(limiter: Limiter, clock: Clock) -> None:
    """Exactly as many as the limit, and again when the first has left the minute."""
    caller = caller_of(Limits(requests_per_minute=5))
    waits = []
    for _ in range(20):
        try:
            enter(limiter, caller).settle(NOTHING, ran=True)
        except RateLimited as error:
            waits.append(error.retry_after_s)

    assert waits == [61] * 15
    clock.now += 61
    enter(limiter, caller)


def test_requests_at_once(limiter: Limiter) -> None:
    """A place is free as soon as one has ended, whatever became of it."""
    caller = caller_of(Limits(concurrent_requests=2))
    first, _ = enter(limiter, caller), enter(limiter, caller)

    with pytest.raises(RateLimited, match="may run 2 at once"):
        enter(limiter, caller)
    first.settle(NOTHING, ran=False)
    enter(limiter, caller)


def test_tokens_are_reserved_and_settled(limiter: Limiter) -> None:
    """The worst case counts while a request runs, what it used afterwards."""
    caller = caller_of(Limits(tokens_per_minute=100))
    first = enter(limiter, caller, 80)

    with pytest.raises(RateLimited, match=r"asks for 30 tokens .* has 20 of 100 left"):
        enter(limiter, caller, 30)
    first.settle(Amount(10), ran=True)
    enter(limiter, caller, 90)
    with pytest.raises(RateLimited, match="has 0 of 100 left"):
        enter(limiter, caller, 1)


def test_what_never_fits(limiter: Limiter) -> None:
    """Is told so, without a time to try again."""
    with pytest.raises(RateLimited, match="may use 100 a minute; shorten") as caught:
        enter(limiter, caller_of(Limits(tokens_per_minute=100)), 101)

    assert caught.value.retry_after_s is None


def test_refused_requests_take_nothing(limiter: Limiter) -> None:
    """Refused requests take nothing, neither from the account that refused nor from the others."""
    caller = caller_of(Limits(requests_per_minute=3), Limits(tokens_per_minute=10))
    for _ in range(10):
        reservation = limiter.enter(caller, "demo")
        with pytest.raises(RateLimited):
            reservation.take(Amount(11))
        reservation.settle(NOTHING, ran=False)

    for _ in range(3):
        enter(limiter, caller, 3)


def test_every_scope_counts(limiter: Limiter) -> None:
    """The key's own limit, the model's, and other keys of the tenant."""
    tight = caller_of(Limits(requests_per_minute=4), Limits(requests_per_minute=2), small=Limits(requests_per_minute=1))
    other = Caller(tenant=tight.tenant, key=Key(id="other", tenant_id="acme"))

    enter(limiter, tight, model="small")
    with pytest.raises(RateLimited, match="acme on small"):
        enter(limiter, tight, model="small")
    enter(limiter, tight)
    with pytest.raises(RateLimited, match="this key"):
        enter(limiter, tight)
    enter(limiter, other)
    enter(limiter, other)
    with pytest.raises(RateLimited, match="tenant acme has made 4"):
        enter(limiter, other)


def test_tenants_do_not_meet(limiter: Limiter) -> None:
    """Each has its own accounts."""
    for name in ("a", "b"):
        enter(limiter, caller_of(Limits(requests_per_minute=1), name=name))


def test_a_changed_limit_holds_at_once(limiter: Limiter) -> None:
    """Requests counted under the former limit count under the changed one."""
    enter(limiter, caller_of(Limits(requests_per_minute=1)))
    enter(limiter, caller_of(Limits(requests_per_minute=2)))
    with pytest.raises(RateLimited):
        enter(limiter, caller_of(Limits(requests_per_minute=2)))


def test_headers(limiter: Limiter, clock: Clock) -> None:
    """Headers show the tightest limit; none without limits."""
    caller = caller_of(Limits(requests_per_minute=10, tokens_per_minute=100), Limits(requests_per_minute=3))
    fresh = dict(limiter.headers(caller))
    enter(limiter, caller, 60)
    clock.now += 1

    assert fresh[b"x-ratelimit-remaining-requests"] == b"3"
    assert fresh[b"x-ratelimit-reset-requests"] == b"0ms"
    assert dict(limiter.headers(caller)) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"1m0s",
        b"x-ratelimit-limit-tokens": b"100",
        b"x-ratelimit-remaining-tokens": b"40",
        b"x-ratelimit-reset-tokens": b"1m0s",
    }
    assert limiter.headers(caller_of()) == []


def test_idle_accounts_are_forgotten(limiter: Limiter, clock: Clock) -> None:
    """Idle accounts are dropped; callers without limits have none."""
    for number in range(5000):
        enter(limiter, caller_of(Limits(requests_per_minute=1), name=f"t{number}")).settle(NOTHING, ran=True)
        clock.now += 1
    enter(limiter, caller_of(name="free"))

    assert len(limiter) < 1100


def test_room(limiter: Limiter) -> None:
    """`room` is what the tightest token limit leaves, and None without one."""
    limited = caller_of(Limits(tokens_per_minute=100), Limits(tokens_per_day=90), demo=Limits(tokens_per_minute=70))
    enter(limiter, limited, 30)

    assert limiter.room(caller_of(), "demo", FREE) is None
    assert limiter.room(limited, "demo", FREE) == 40
    assert limiter.room(limited, "other", FREE) == 60
    limiter.enter(limited, "other").take(Amount(55))
    assert limiter.room(limited, "demo", FREE) == 5


def test_bounds() -> None:
    """The policy caps defaults and rejects explicit excess; tokens left by the limits bound the context of the rest."""
    key = Key(id="", tenant_id="")
    capped = Caller(tenant=Tenant(name="a", policy=Policy(max_output_tokens=50, max_context=60)), key=key)

    assert bounds_of(caller_of(), max_tokens=None, room=None) == Bounds(None, None, is_by_room=False)
    assert bounds_of(capped, max_tokens=None, room=None) == Bounds(50, 60, is_by_room=False)
    assert bounds_of(capped, max_tokens=None, room=70) == Bounds(50, 60, is_by_room=False)
    assert bounds_of(capped, max_tokens=None, room=59) == Bounds(50, 59, is_by_room=True)
    assert bounds_of(caller_of(), max_tokens=500, room=7) == Bounds(500, None, is_by_room=False)
    assert bounds_of(caller_of(), max_tokens=None, room=-7) == Bounds(None, 1, is_by_room=True)
    with pytest.raises(InvalidRequest, match="asks for 51, and this tenant may ask for 50"):
        bounds_of(capped, max_tokens=51, room=None)
