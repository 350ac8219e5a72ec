"""How fast: requests and tokens a minute, and requests at once, of a tenant, a key, and a tenant's use of one model.

A request reserves before it runs and settles after, however it ends. All of it happens in memory, on one event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import msgspec

from gateway.errors import RateLimited
from gateway.tenants.identity import Caller
from gateway.tenants.policy import NO_LIMITS, Limits
from gateway.tenants.window import SlidingMinute

_CONCURRENCY_RETRY_S = 1.0
_FEW_ACCOUNTS = 1024


class Account:
    """What one tenant, key or model of a tenant has taken."""

    __slots__ = ("requests", "running", "tokens")

    def __init__(self) -> None:
        self.requests = SlidingMinute()
        self.tokens = SlidingMinute()
        self.running = 0

    def is_idle(self, now: float) -> bool:
        return self.running == 0 and self.requests.taken(now) == 0 and self.tokens.taken(now) == 0


_UNTOUCHED = Account()
"""Of everybody who has none yet; nothing is ever taken from it."""


class Held(msgspec.Struct):
    """What a reservation holds of one account."""

    account: Account
    limits: Limits
    what: str
    request_second: int
    tokens: int = 0
    token_second: int = 0


class Limiter:
    """Knows every account that is not idle. `now` is a monotonic clock in seconds."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._accounts: dict[str, Account] = {}
        self._prune_at = _FEW_ACCOUNTS

    def enter(self, caller: Caller, model: str) -> Reservation:
        """Take a request from every account of the caller, or from none. Raises `RateLimited`."""
        now = self._now()
        limited = [each for each in _scopes(caller, model) if each[1] != NO_LIMITS]
        scopes = [(self._account(scope), limits, what) for scope, limits, what in limited]
        for account, limits, what in scopes:
            _check_entry(account, limits, what, now)
        held = [Held(account, limits, what, account.requests.take(1, now)) for account, limits, what in scopes]
        for each in held:
            each.account.running += 1
        return Reservation(held, self._now)

    def headers(self, caller: Caller) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-*` of the tightest limits of this tenant and key; none without limits."""
        now = self._now()
        found = [(limits, self._accounts.get(scope) or _UNTOUCHED) for scope, limits, _ in _scopes(caller, None)]
        requests = [(limits.requests_per_minute, account.requests) for limits, account in found]
        tokens = [(limits.tokens_per_minute, account.tokens) for limits, account in found]
        return [*_headers_of("requests", requests, now), *_headers_of("tokens", tokens, now)]

    def __len__(self) -> int:
        """Accounts in memory."""
        return len(self._accounts)

    def _account(self, scope: str) -> Account:
        found = self._accounts.get(scope)
        if found is None:
            if len(self._accounts) >= self._prune_at:
                self._prune()
            found = self._accounts[scope] = Account()
        return found

    def _prune(self) -> None:
        now = self._now()
        self._accounts = {scope: account for scope, account in self._accounts.items() if not account.is_idle(now)}
        self._prune_at = max(_FEW_ACCOUNTS, 2 * len(self._accounts))


class Reservation:
    """A request that may run. `settle` is called exactly once, and gives back what was not used."""

    def __init__(self, held: list[Held], now: Callable[[], float]) -> None:
        self._held = held
        self._now = now

    def take_tokens(self, amount: int) -> None:
        """Of every account or of none: the prompt and all that may be generated. Raises `RateLimited`."""
        now = self._now()
        for each in self._held:
            _check_tokens(each, amount, now)
        for each in self._held:
            each.tokens = amount
            each.token_second = each.account.tokens.take(amount, now)

    def settle(self, *, used_tokens: int, ran: bool) -> None:
        """`ran` is false for a request that was refused and so was none."""
        for each in self._held:
            each.account.running -= 1
            each.account.tokens.give_back(each.tokens - used_tokens, each.token_second)
            if not ran:
                each.account.requests.give_back(1, each.request_second)
        self._held = []


NOTHING_RESERVED = Reservation([], time.monotonic)
"""What a request holds before it entered."""


def _scopes(caller: Caller, model: str | None) -> list[tuple[str, Limits, str]]:
    tenant, key = caller.tenant, caller.key
    scopes = [
        (f"tenant {tenant.id}", tenant.policy.limits, f"tenant {tenant.name}"),
        (f"key {key.id}", key.limits, "this key"),
    ]
    if model is not None and model in tenant.policy.model_limits:
        limits = tenant.policy.model_limits[model]
        scopes.append((f"tenant {tenant.id} {model}", limits, f"tenant {tenant.name} on {model}"))
    return scopes


def _check_entry(account: Account, limits: Limits, what: str, now: float) -> None:
    running, per_minute = limits.concurrent_requests, limits.requests_per_minute
    if running is not None and account.running >= running:
        raise RateLimited(
            f"{what} runs {account.running} requests and may run {running} at once; wait for one to end",
            retry_after_s=_CONCURRENCY_RETRY_S,
        )
    if per_minute is not None and (wait_s := account.requests.wait_s(1, per_minute, now)):
        raise RateLimited(
            f"{what} has made {per_minute} requests within a minute, its limit; try again in {wait_s:.0f} s",
            retry_after_s=wait_s,
        )


def _check_tokens(held: Held, amount: int, now: float) -> None:
    limit = held.limits.tokens_per_minute
    if limit is None:
        return
    if amount > limit:
        raise RateLimited(
            f"the request asks for {amount} tokens with its prompt, and {held.what} may use {limit} a minute; "
            "shorten the prompt or lower max_tokens",
            retry_after_s=None,
        )
    wait_s = held.account.tokens.wait_s(amount, limit, now)
    if wait_s:
        left = limit - held.account.tokens.taken(now)
        raise RateLimited(
            f"the request asks for {amount} tokens with its prompt, and {held.what} has {left} of {limit} left in this "
            f"minute; try again in {wait_s:.0f} s",
            retry_after_s=wait_s,
        )


def _headers_of(
    unit: Literal["requests", "tokens"], windows: list[tuple[int | None, SlidingMinute]], now: float
) -> list[tuple[bytes, bytes]]:
    found = [(limit - window.taken(now), limit, window) for limit, window in windows if limit is not None]
    if not found:
        return []
    left, limit, window = min(found, key=lambda each: each[:2])
    return [
        (f"x-ratelimit-limit-{unit}".encode(), str(limit).encode()),
        (f"x-ratelimit-remaining-{unit}".encode(), str(max(0, left)).encode()),
        (f"x-ratelimit-reset-{unit}".encode(), _duration(window.reset_s(now)).encode()),
    ]


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `6m0s`, `12s`, `350ms`."""
    if seconds < 1:
        return f"{round(1000 * seconds)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
