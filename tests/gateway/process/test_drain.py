"""Draining the server."""

from __future__ import annotations

import asyncio

import pytest

from gateway.process.drain import Drain


async def test_waits_for_those_inside() -> None:
    """Empty only when the last one has left, however it left."""
    drain = Drain()
    assert drain.accepting()
    await drain.wait_empty()

    with drain.request():
        drain.close()
        waiting = asyncio.create_task(drain.wait_empty())
        with pytest.raises(ValueError, match="lost"), drain.request():
            raise ValueError("lost")
        assert drain.num_open == 1
        assert not waiting.done()
    await waiting

    assert drain.num_open == 0
    assert not drain.accepting()
    await drain.wait_closed()
