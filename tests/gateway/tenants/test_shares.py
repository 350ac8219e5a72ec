"""The rules by which gateways share limits, without a store."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import RateLimited, ShareTooSmall
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.peers.share_rules import WANTED_S, Peer, QuotaShare, QuotaShares, next_shares
from gateway.tenants.peers.shares import WHOLE, Granted, Shares
from gateway.tenants.policy import Caller, Key, Limits, Policy, Tenant

SUBJECT = "tenant a"


class Street:
    """Gateways that speak one after the other; `used` is what each takes of the subject now."""

    def __init__(self, *names: str) -> None:
        self.now = 0.0
        self.used = dict.fromkeys(names, 0)
        self.said: dict[str, tuple[QuotaShares, float]] = {}

    def speak(self, name: str, *, wants: bool = False) -> None:
        peers = [Peer(other, said.default) for other, (said, _) in self.said.items()]
        parts = [self._aged(part, at) for said, at in self.said.values() for part in said.parts.values()]
        standing = next_shares(
            name,
            peers,
            parts,
            wanted=[SUBJECT] if wants else [],
            heavy=lambda part: [SUBJECT] if self.used[name] > part else [],
            used=lambda _: self.used[name],
        )
        self.said[name] = standing, self.now

    def rounds(self, count: int, *names: str, wants: str = "") -> None:
        for _ in range(count):
            for name in names:
                self.speak(name, wants=name in wants)
            self.now += 0.4

    def share(self, name: str) -> int:
        said = self.said[name][0]
        return said.parts[SUBJECT].share if SUBJECT in said.parts else said.default

    def _aged(self, part: QuotaShare, at: float) -> QuotaShare:
        return QuotaShare(
            subject=part.subject,
            gateway=part.gateway,
            share=part.share,
            wanted_ago_s=part.wanted_ago_s + self.now - at,
        )


def test_alone() -> None:
    """A gateway has everything."""
    street = Street("a")
    street.speak("a")

    assert street.share("a") == WHOLE


def test_a_newcomer_waits_for_the_others() -> None:
    """A new gateway has nothing until the others gave up their parts, then each has the same."""
    street = Street("a", "b", "c")
    street.speak("a")
    street.speak("b")
    before = street.share("b")
    street.rounds(3, "a", "b", "c")

    assert before == 0
    assert [street.share(name) for name in "abc"] == [WHOLE // 3] * 3


def test_one_may_have_all() -> None:
    """The only gateway that wants more gets all in two rounds, and again equal shares a minute later."""
    street = Street("a", "b")
    street.rounds(2, "a", "b")
    street.rounds(2, "a", "b", wants="a")
    shares = [street.share(name) for name in "ab"]
    street.now += WANTED_S
    street.rounds(3, "a", "b")

    assert shares == [WHOLE, 0]
    assert [street.share(name) for name in "ab"] == [WHOLE // 2] * 2
    assert street.said["a"][0].parts == {}


def test_two_that_want() -> None:
    """Two gateways that want more get equal shares, whichever came first."""
    street = Street("a", "b")
    street.rounds(2, "a", "b")
    street.rounds(3, "a", "b", wants="a")
    street.rounds(4, "a", "b", wants="ab")

    assert [street.share(name) for name in "ab"] == [WHOLE // 2] * 2


def test_what_is_used_is_kept() -> None:
    """A used share is kept until it has left the minute: gateways that are new or want more get the rest."""
    street = Street("a", "b")
    street.used["a"] = WHOLE * 3 // 4
    street.speak("a")
    street.rounds(3, "b", "a", wants="b")
    shares = [street.share(name) for name in "ab"]
    street.used["a"] = 0
    street.rounds(3, "b", "a", wants="b")

    assert shares == [WHOLE * 3 // 4, WHOLE // 4]
    assert street.share("b") > WHOLE // 2


moves = st.tuples(st.sampled_from("abcd"), st.booleans(), st.floats(0, 1), st.floats(0, 30))


@settings(max_examples=300)
@given(st.lists(moves, max_size=60))
def test_never_more_than_the_whole(said: list[tuple[str, bool, float, float]]) -> None:
    """Shares sum to the whole at most, and no gateway loses what it uses, in any order of updates, wishes and uses
    while no gateway fails.
    """
    street = Street(*"abcd")
    for name, wants, use, seconds in said:
        mine = street.share(name) if name in street.said else 0
        street.used[name] = int(use * mine)
        street.speak(name, wants=wants)
        street.now += seconds

        assert sum(street.share(each) for each in street.said) <= WHOLE
        assert street.share(name) >= street.used[name]


def caller(**limits: int) -> Caller:
    policy = Policy(limits=Limits(**limits))
    return Caller(tenant=Tenant(id="a", name="a", policy=policy), key=Key(id="k", tenant_id="a"))


@pytest.mark.parametrize(("limit", "share", "granted"), [(10, WHOLE // 2, 5), (1, WHOLE // 8, 1), (9, 0, 0)])
def test_a_part_of_a_limit(limit: int, share: int, granted: int) -> None:
    """Rounded down, but to one."""
    shares = Shares()
    shares.take_over(Granted(share, {}))

    assert shares.granted(limit, SUBJECT) == granted


def test_whose_fault_it_is() -> None:
    """A request that does not fit the share differs from one that exceeds the limit, and more share is wanted."""
    limiter = Limiter(now=lambda: 1.0)
    limiter.shares.take_over(Granted(WHOLE // 2, {}))
    for _ in range(2):
        limiter.enter(caller(requests_per_minute=4), "demo")
    with pytest.raises(ShareTooSmall):
        limiter.enter(caller(requests_per_minute=4), "demo")
    wanted = limiter.shares.take_wanted()
    with pytest.raises(RateLimited) as caught:
        limiter.enter(caller(requests_per_minute=2), "demo")

    assert wanted == {SUBJECT}
    assert not isinstance(caught.value, ShareTooSmall)
    assert limiter.shares.take_wanted() == set()
    assert limiter.used_share(SUBJECT) == WHOLE
    assert limiter.heavy_users(WHOLE // 2) == [SUBJECT]


async def test_requests_wait_for_a_share() -> None:
    """Requests wait for a share and are served as soon as it comes; without one they are refused."""
    limiter = Limiter(now=lambda: 1.0)
    limiter.shares.take_over(Granted(0, {}))
    waiting = asyncio.create_task(
        limiter.shares.granted_soon(lambda: limiter.enter(caller(concurrent_requests=1), "demo"))
    )
    await limiter.shares.is_wanted.wait()
    limiter.shares.take_over(Granted(0, {SUBJECT: 1}))
    await waiting

    with pytest.raises(RateLimited, match="may run 1 at once"):
        await limiter.shares.granted_soon(lambda: limiter.enter(caller(concurrent_requests=1), "demo"))


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a share ends with the error of the last attempt."""
    monkeypatch.setattr("gateway.tenants.peers.shares.PATIENCE_S", 0.01)
    limiter = Limiter()
    limiter.shares.take_over(Granted(0, {}))

    with pytest.raises(ShareTooSmall, match="may run 0 at once"):
        await limiter.shares.granted_soon(lambda: limiter.enter(caller(concurrent_requests=1), "demo"))
