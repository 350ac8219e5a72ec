"""Limits on wrong keys from one address."""

from __future__ import annotations

import pytest

from gateway.errors import TooManyWrongKeys
from gateway.tenants.auth import wrong_keys as module
from gateway.tenants.auth.wrong_keys import WrongKeys


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(wrong_keys: WrongKeys, address: str | None, times: int) -> int:
    """Number of refusals for `times` wrong keys."""
    refused = 0
    for _ in range(times):
        try:
            wrong_keys.note(address)
        except TooManyWrongKeys:
            refused += 1
    return refused


def test_a_minute() -> None:
    """An address that waits as long as it was told may try again, and once only."""
    clock = Clock()
    wrong_keys = WrongKeys(per_minute=3, now=clock)
    refused = shown(wrong_keys, "203.0.113.7", 2)
    clock.now += 10
    refused += shown(wrong_keys, "203.0.113.7", 1)
    with pytest.raises(TooManyWrongKeys, match="more than 3 wrong API keys a minute") as caught:
        wrong_keys.note("203.0.113.7")
    clock.now += caught.value.retry_after_s

    assert refused == 0
    assert caught.value.retry_after_s == 51.0
    assert shown(wrong_keys, "203.0.113.7", 5) == 3


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ("203.0.113.8", False),
        ("2001:db8:0:1::2", False),
        ("2001:db8::ffff:2", True),
        ("2001:db8::1%eth0", True),
        (None, False),
    ],
)
def test_what_an_address_is(other: str | None, is_same: bool) -> None:
    """An IPv6 address counts as its network of 64 bits; all unknown addresses count as one."""
    wrong_keys = WrongKeys(per_minute=1)
    wrong_keys.note("2001:db8::1")

    assert shown(wrong_keys, other, 1) == is_same
    assert shown(wrong_keys, None, 1) == (other is None)
    assert shown(wrong_keys, "no address", 1) == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that failed longest ago is forgotten."""
    monkeypatch.setattr(module, "MAX_SOURCES", 10)
    wrong_keys = WrongKeys(per_minute=1)
    for number in range(10):
        wrong_keys.note(f"10.0.0.{number}")
    refused = shown(wrong_keys, "10.0.0.0", 1)
    wrong_keys.note("10.0.1.0")

    assert refused == 1
    assert len(wrong_keys) == 10
    assert shown(wrong_keys, "10.0.0.0", 1) == 1
    assert shown(wrong_keys, "10.0.0.1", 1) == 0


def test_no_limit() -> None:
    """0 remembers no address."""
    wrong_keys = WrongKeys(per_minute=0)

    assert shown(wrong_keys, "203.0.113.7", 1000) == 0
    assert len(wrong_keys) == 0
