"""The gateway's end of the socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gateway.engine.connection import EngineConnection
from gateway.engine.messages import Abort, FrameBuffer, Progress, encode_frame

HALF, WHOLE = Progress("loading", 0.5), Progress("loading", 1.0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    yield ours, theirs
    theirs.close()
    ours.close()


async def test_sends_of_one_turn_leave_together(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nothing leaves before the turn of the event loop ends, then all of it does, in order."""
    ours, theirs = pair
    connection = await EngineConnection.open(ours)

    connection.send(Abort(1))
    connection.send(Abort(2))

    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    await asyncio.sleep(0)
    assert FrameBuffer().feed(theirs.recv(1024)) == [encode_frame(Abort(number))[4:] for number in (1, 2)]
    await connection.aclose()


async def test_close_sends_what_is_queued(pair: tuple[socket.socket, socket.socket]) -> None:
    """A message that was sent in the same turn is not lost."""
    ours, theirs = pair
    connection = await EngineConnection.open(ours)

    connection.send(Abort(1))
    await connection.aclose()

    assert theirs.recv(1024) == encode_frame(Abort(1))


async def test_what_came_before_the_end_is_received(pair: tuple[socket.socket, socket.socket]) -> None:
    """Messages first, however they are cut, then None as often as it is asked."""
    ours, theirs = pair
    connection = await EngineConnection.open(ours)
    frames = encode_frame(HALF) + encode_frame(WHOLE)

    theirs.send(frames[:-3])
    first = await connection.receive()
    theirs.send(frames[-3:])
    theirs.close()

    assert (first, await connection.receive()) == ([HALF], [WHOLE])
    assert await connection.receive() is None
    assert await connection.receive() is None


async def test_cancelled_receive_loses_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    """The next one gets what has come."""
    ours, theirs = pair
    connection = await EngineConnection.open(ours)
    waiting = asyncio.create_task(connection.receive())
    await asyncio.sleep(0)

    waiting.cancel()
    theirs.send(encode_frame(HALF))

    assert await connection.receive() == [HALF]
    await connection.aclose()


async def test_sending_to_a_lost_engine_is_quiet(pair: tuple[socket.socket, socket.socket]) -> None:
    """`receive` tells; `send` and `aclose` need not be guarded."""
    ours, theirs = pair
    connection = await EngineConnection.open(ours)
    theirs.close()

    lost = await connection.receive()
    connection.send(Abort(1))
    await connection.aclose()

    assert lost is None
