"""Limits of a tenant, a key, and a tenant's use of one model: concurrent requests, rates a minute, and budgets.

A request reserves before it runs and settles after, however it ends. All of it happens in memory, on one event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from gateway.errors import RateLimited, ShareTooSmall
from gateway.tenants.limits.budgets import Amount, Budgets, HeldBudget
from gateway.tenants.limits.prices import NANOS, Price
from gateway.tenants.limits.subjects import Subject, subjects_of
from gateway.tenants.limits.window import RateStatus, SlidingMinute, rate_headers
from gateway.tenants.peers.shares import WHOLE, Shares
from gateway.tenants.policy import NO_LIMITS, Caller

_RETRY_S = 1.0
_FEW_ACCOUNTS = 1024


class SubjectAccount:
    """Usage of one subject in the last minute, and its running requests."""

    __slots__ = ("limits", "requests", "running", "tokens")

    def __init__(self) -> None:
        self.limits = NO_LIMITS
        self.requests = SlidingMinute()
        self.tokens = SlidingMinute()
        self.running = 0

    def is_idle(self, now: float) -> bool:
        return self.running == 0 and self.requests.taken(now) == 0 and self.tokens.taken(now) == 0

    def used_share(self, now: float) -> int:
        """Used part of the limits that last applied, rounded up."""
        uses = (
            (self.requests.taken(now), self.limits.requests_per_minute),
            (self.tokens.taken(now), self.limits.tokens_per_minute),
            (self.running, self.limits.concurrent_requests),
        )
        return max((-(-used * WHOLE // limit) for used, limit in uses if limit is not None), default=0)


_UNTOUCHED = SubjectAccount()
"""Shared empty account for subjects without usage; never modified."""


class Held(msgspec.Struct):
    """Amounts that a reservation has taken from one account."""

    account: SubjectAccount
    subject: Subject
    request_second: int
    tokens: int = 0
    token_second: int = 0


class Limiter:
    """Tracks every account that is not idle. `now` is a monotonic clock in seconds, `wall_clock` Unix seconds."""

    def __init__(
        self, *, now: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.shares = Shares()
        self.budgets = Budgets(self.shares, wall_clock=wall_clock)
        self._now = now
        self._accounts: dict[str, SubjectAccount] = {}
        self._prune_at = _FEW_ACCOUNTS

    def enter(self, caller: Caller, model: str) -> Reservation:
        """Reserve a request in every account of the caller, or in none. Raises `RateLimited` or `QuotaExceeded`."""
        now = self._now()
        subjects = _limited(caller, model)
        self.budgets.check(subjects)
        accounts = [self._account(subject.id) for subject in subjects]
        for account, subject in zip(accounts, subjects, strict=True):
            self._check_entry(account, subject, now)
        held = [
            Held(account, subject, account.requests.take(1, now))
            for account, subject in zip(accounts, subjects, strict=True)
        ]
        for account in accounts:
            account.running += 1
        return Reservation(self, held)

    def room(self, caller: Caller, model: str, price: Price) -> int | None:
        """Tokens that one more request could reserve now; None without limits on tokens or money."""
        now, subjects = self._now(), _limited(caller, model)
        kv = [
            self.shares.granted(subject.limits.tokens_per_minute, subject.id)
            - self._accounts.get(subject.id, _UNTOUCHED).tokens.taken(now)
            for subject in subjects
            if subject.limits.tokens_per_minute is not None
        ]
        tokens, nanos = (self.budgets.left(subjects, unit) for unit in ("tokens", "cost"))
        if tokens is not None:
            kv.append(tokens)
        if nanos is not None and price.highest > 0:
            kv.append(int(nanos * 10**6 / (price.highest * NANOS)))
        return min(kv, default=None)

    def headers(self, caller: Caller) -> list[tuple[bytes, bytes]]:
        """Headers `x-ratelimit-*` of the tightest limits of this tenant and key; none without limits."""
        now, subjects = self._now(), _limited(caller, None)
        accounts = [self._accounts.get(subject.id) or _UNTOUCHED for subject in subjects]
        requests = [
            RateStatus(each.limits.requests_per_minute, account.requests)
            for each, account in zip(subjects, accounts, strict=True)
        ]
        tokens = [
            RateStatus(each.limits.tokens_per_minute, account.tokens)
            for each, account in zip(subjects, accounts, strict=True)
        ]
        return [*rate_headers("requests", requests, now), *rate_headers("tokens", tokens, now)]

    def used_share(self, subject: str) -> int:
        """Part of its limits a minute that a subject uses on this gateway now, in parts of `WHOLE`."""
        account = self._accounts.get(subject)
        return 0 if account is None else account.used_share(self._now())

    def heavy_users(self, part: int) -> list[str]:
        """Subjects that use more than this part of their limits."""
        now = self._now()
        return [subject for subject, account in self._accounts.items() if account.used_share(now) > part]

    def __len__(self) -> int:
        """Number of accounts in memory."""
        return len(self._accounts)

    def take_tokens(self, held: list[Held], amount: Amount) -> list[HeldBudget]:
        now, subjects = self._now(), [each.subject for each in held]
        for each in held:
            self._check_tokens(each, amount.tokens, now)
        self.budgets.check(subjects, amount)
        for each in held:
            each.tokens = amount.tokens
            each.token_second = each.account.tokens.take(amount.tokens, now)
        return self.budgets.reserve(subjects, amount)

    def _check_entry(self, account: SubjectAccount, subject: Subject, now: float) -> None:
        limits, what = subject.limits, subject.what
        account.limits = limits
        if limits.concurrent_requests is not None and account.running >= (
            most := self.shares.granted(limits.concurrent_requests, subject.id)
        ):
            raise self._refusal(
                subject,
                account.running < limits.concurrent_requests,
                f"{what} runs {account.running} requests and may run {most} at once; wait for one to end",
                _RETRY_S,
            )
        if limits.requests_per_minute is not None:
            most = self.shares.granted(limits.requests_per_minute, subject.id)
            if wait_s := account.requests.wait_s(1, most, now) if most else _RETRY_S:
                raise self._refusal(
                    subject,
                    account.requests.taken(now) < limits.requests_per_minute,
                    f"{what} has made {most} requests within a minute, its limit; try again in {wait_s:.0f} s",
                    wait_s,
                )

    def _check_tokens(self, held: Held, amount: int, now: float) -> None:
        whole, subject, tokens = held.subject.limits.tokens_per_minute, held.subject, held.account.tokens
        if whole is None:
            return
        if amount > whole:
            raise RateLimited(
                f"the request asks for {amount} tokens with its prompt, and {subject.what} may use {whole} a minute; "
                "shorten the prompt or lower max_tokens",
                retry_after_s=None,
            )
        most = self.shares.granted(whole, subject.id)
        wait_s = tokens.wait_s(amount, most, now) if amount <= most else _RETRY_S
        if wait_s:
            left = max(0, most - tokens.taken(now))
            raise self._refusal(
                subject,
                tokens.taken(now) + amount <= whole,
                f"the request asks for {amount} tokens with its prompt, and {subject.what} has {left} of {most} left "
                f"in this minute; try again in {wait_s:.0f} s",
                wait_s,
            )

    def _refusal(self, subject: Subject, others_have_room: bool, message: str, retry_after_s: float) -> RateLimited:
        if not others_have_room:
            return RateLimited(message, retry_after_s=retry_after_s)
        self.shares.want(subject.id)
        return ShareTooSmall(message, retry_after_s=_RETRY_S)

    def _account(self, subject: str) -> SubjectAccount:
        found = self._accounts.get(subject)
        if found is None:
            if len(self._accounts) >= self._prune_at:
                self._prune()
            found = self._accounts[subject] = SubjectAccount()
        return found

    def _prune(self) -> None:
        now = self._now()
        self._accounts = {subject: account for subject, account in self._accounts.items() if not account.is_idle(now)}
        self._prune_at = max(_FEW_ACCOUNTS, 2 * len(self._accounts))


class Reservation:
    """Reservation of a request that may run. `settle` is called exactly once, and returns what was not used."""

    def __init__(self, limiter: Limiter | None, held: list[Held]) -> None:
        self._limiter = limiter
        self._held = held
        self._budgets: list[HeldBudget] = []

    def take(self, amount: Amount) -> None:
        """Reserve prompt and all that may be generated, in every account or in none. Raises as `Limiter.enter` does."""
        if self._limiter is not None:
            self._budgets = self._limiter.take_tokens(self._held, amount)

    def settle(self, used: Amount, *, ran: bool) -> None:
        """Settle the actual usage. `ran` is false for a request that was rejected and does not count."""
        for each in self._held:
            each.account.running -= 1
            each.account.tokens.give_back(each.tokens - used.tokens, each.token_second)
            if not ran:
                each.account.requests.give_back(1, each.request_second)
        if self._limiter is not None:
            self._limiter.budgets.settle(self._budgets, used)
        self._held, self._budgets = [], []


NOTHING_RESERVED = Reservation(None, [])
"""Reservation of a request that has not entered."""


def _limited(caller: Caller, model: str | None) -> list[Subject]:
    return [subject for subject in subjects_of(caller, model) if subject.limits != NO_LIMITS]
