"""Limits the wrong keys per minute of each address. Right keys are accepted, whatever came before them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address

from gateway.errors import TooManyWrongKeys
from gateway.tenants.limits.window import SlidingMinute

MAX_SOURCES = 2048
"""Number of addresses remembered, those that failed last."""
DEFAULT_PER_MINUTE = 60


class WrongKeys:
    """Counts by the address of the connection; headers are not trusted for it."""

    def __init__(self, *, per_minute: int = DEFAULT_PER_MINUTE, now: Callable[[], float] = time.monotonic) -> None:
        """`per_minute=0` sets no limit."""
        self._per_minute = per_minute
        self._now = now
        self._sources: OrderedDict[str, SlidingMinute] = OrderedDict()

    def note(self, address: str | None) -> None:
        """Count a wrong key. Raises `TooManyWrongKeys`, and then it was not counted."""
        if self._per_minute == 0:
            return
        shown, now = self._window(_source(address)), self._now()
        wait_s = shown.wait_s(1, self._per_minute, now)
        if wait_s > 0:
            raise TooManyWrongKeys(
                f"more than {self._per_minute} wrong API keys a minute came from this address; "
                f"check the key, and try again in {wait_s:.0f} s",
                retry_after_s=wait_s,
            )
        shown.take(1, now)

    def __len__(self) -> int:
        """Number of remembered addresses."""
        return len(self._sources)

    def _window(self, source: str) -> SlidingMinute:
        window = self._sources.setdefault(source, SlidingMinute())
        self._sources.move_to_end(source)
        if len(self._sources) > MAX_SOURCES:
            self._sources.popitem(last=False)
        return window


def _source(address: str | None) -> str:
    """Address to count under; for IPv6 its /64 network, which commonly belongs to one customer."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return "unknown"
    return str(IPv6Network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else str(parsed)
