"""Rules for the share of a limit that each gateway gets: pure functions, see `gateway.tenants.peers.shares`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from gateway.tenants.peers.shares import WHOLE, Granted

WANTED_S = 60.0
"""Seconds that a wish for more is remembered; without one, shares return to equal parts."""
_WANTS_MORE_S = 5.0


class Peer(msgspec.Struct, frozen=True):
    """A live gateway, and its default share, which applies to limits without a `QuotaShare`."""

    id: str
    default: int


class QuotaShare(msgspec.Struct, frozen=True, kw_only=True):
    """Share of one subject's limits that a gateway has, and how many seconds ago it wanted more."""

    subject: str
    gateway: str
    share: int
    wanted_ago_s: float


class QuotaShares(msgspec.Struct, frozen=True):
    """Shares that this gateway may use and publishes to the others."""

    default: int
    parts: dict[str, QuotaShare]

    @property
    def shares(self) -> Granted:
        return Granted(self.default, {subject: part.share for subject, part in self.parts.items()})


def next_shares(
    own: str,
    peers: Iterable[Peer],
    parts: Iterable[QuotaShare],
    *,
    wanted: Iterable[str],
    heavy: Callable[[int], Iterable[str]],
    used: Callable[[str], int],
) -> QuotaShares:
    """Compute the next shares of gateway `own`.

    `used` returns the part of a subject's limits that is in use here, `heavy` the subjects that use more than a part.
    """
    others = {peer.id: peer.default for peer in peers if peer.id != own}
    before = next((peer.default for peer in peers if peer.id == own), 0)
    default = max(0, min(WHOLE // (len(others) + 1), WHOLE - sum(others.values())))
    wants_more = set(wanted)
    found: dict[str, dict[str, QuotaShare]] = {
        subject: {} for subject in (*wants_more, *(heavy(default) if others else ()))
    }
    for told in parts:
        if told.gateway == own or told.gateway in others:
            found.setdefault(told.subject, {})[told.gateway] = told
    standing = {}
    for subject, by_gateway in found.items():
        mine = by_gateway.pop(own, None)
        view = QuotaView(
            share=before if mine is None else mine.share,
            default=default,
            used=used(subject),
            free=max(0, WHOLE - sum(by_gateway[peer].share if peer in by_gateway else others[peer] for peer in others)),
            wanted_ago_s=0.0 if subject in wants_more else mine.wanted_ago_s if mine else 2 * WANTED_S,
            others_wanted_ago_s=[part.wanted_ago_s for part in by_gateway.values()],
        )
        if not (view.is_quiet and view.next_share == default):
            standing[subject] = QuotaShare(
                subject=subject, gateway=own, share=view.next_share, wanted_ago_s=view.wanted_ago_s
            )
    return QuotaShares(default, standing)


class QuotaView(msgspec.Struct, frozen=True, kw_only=True):
    """View of one subject from one gateway: its share, how much of it is used, and what the others leave free."""

    share: int
    default: int
    used: int
    free: int
    wanted_ago_s: float
    others_wanted_ago_s: list[float]

    @property
    def is_quiet(self) -> bool:
        return min(self.wanted_ago_s, *self.others_wanted_ago_s, WANTED_S) >= WANTED_S

    @property
    def next_share(self) -> int:
        """Next share: never less than what is used, and never more than what is free."""
        rivals = sum(ago_s < _WANTS_MORE_S for ago_s in self.others_wanted_ago_s)
        is_hungry = self.wanted_ago_s < _WANTS_MORE_S
        fair = WHOLE // (rivals + 1) if is_hungry else 0
        share = self.share
        if rivals:
            share = min(share, max(self.used, fair))
        elif self.is_quiet:
            share = max(self.used, self.default)
        if is_hungry:
            share = max(share, min(self.free, fair))
        return min(share, self.free)
