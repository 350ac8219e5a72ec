"""Transports that delay writes until the iteration of the event loop ends."""

from __future__ import annotations

import asyncio
from typing import cast

from gateway.process.write_coalescing import CoalescingTransport


class Transport:
    """Keeps what was done to it."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done

    def pause_reading(self) -> None:
        self.done.append("paused")


def corked(transport: Transport) -> CoalescingTransport:
    return CoalescingTransport(cast("asyncio.Transport", transport))


async def test_writes_of_one_turn_leave_in_one() -> None:
    """Writes of one loop turn are sent in order as one when the turn ends; the next turn's writes form the next one."""
    transport = Transport()
    cork = corked(transport)

    cork.write(b"head ")
    cork.write(b"body")
    held = list(transport.done)
    await asyncio.sleep(0)
    cork.write(b"more")
    await asyncio.sleep(0)

    assert held == []
    assert transport.done == [b"head body", b"more"]


async def test_close_sends_first() -> None:
    """Data written ahead of `close` is sent, and nothing follows it."""
    transport = Transport()
    cork = corked(transport)

    cork.write(b"last words")
    cork.close()
    cork.write(b"too late")
    await asyncio.sleep(0)

    assert transport.done == [b"last words", "closed"]


async def test_all_else_is_the_transports() -> None:
    """Back-pressure and addresses are passed through."""
    transport = Transport()

    corked(transport).pause_reading()

    assert transport.done == ["paused"]
