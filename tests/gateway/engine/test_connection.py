"""The gateway's end of the socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gateway.engine.client_side.connection import EngineConnection
from gateway.engine.messages import Abort, FrameBuffer, FromEngine, Progress, encode_frame
from tests.gateway.engine.making import PATIENCE_S

HALF, WHOLE = Progress("loading", 0.5), Progress("loading", 1.0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    yield ours, theirs
    theirs.close()
    ours.close()


def ignore(message: FromEngine) -> None:
    """Ignore messages; for tests of what is sent."""


async def test_sends_of_one_turn_leave_together(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nothing leaves before the turn of the event loop ends, then all of it does, in order."""
    ours, theirs = pair
    connection = await EngineConnection.open(ours, take=ignore)

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
    connection = await EngineConnection.open(ours, take=ignore)

    connection.send(Abort(1))
    await connection.aclose()

    assert theirs.recv(1024) == encode_frame(Abort(1))


async def test_what_came_before_the_end_is_taken(pair: tuple[socket.socket, socket.socket]) -> None:
    """Messages in order, however they are cut, then the end."""
    ours, theirs = pair
    taken: list[FromEngine] = []
    connection = await EngineConnection.open(ours, take=taken.append)
    frames = encode_frame(HALF) + encode_frame(WHOLE)

    theirs.send(frames[:-3])
    had_ended = await connection.ends_within(0)
    theirs.send(frames[-3:])
    theirs.close()

    assert not had_ended
    assert await connection.ends_within(PATIENCE_S)
    assert taken == [HALF, WHOLE]


async def test_what_cannot_be_taken_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    """The error is raised in the wait for the end, and no later message is taken."""
    ours, theirs = pair
    taken: list[FromEngine] = []

    def take(message: FromEngine) -> None:
        taken.append(message)
        raise LookupError("not this one")

    connection = await EngineConnection.open(ours, take=take)
    theirs.send(encode_frame(HALF) + encode_frame(WHOLE))

    with pytest.raises(LookupError, match="not this one"):
        await connection.ends_within(PATIENCE_S)
    theirs.send(encode_frame(WHOLE))
    await connection.aclose()
    assert taken == [HALF]


async def test_noise_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    """A length that no message has ends the listening."""
    ours, theirs = pair
    connection = await EngineConnection.open(ours, take=ignore)

    theirs.send(b"\xff" * 8)

    with pytest.raises(ValueError, match="exceeds"):
        await connection.ends_within(PATIENCE_S)
    await connection.aclose()


async def test_sending_to_a_lost_engine_is_quiet(pair: tuple[socket.socket, socket.socket]) -> None:
    """`ends_within` tells; `send` and `aclose` need not be guarded."""
    ours, theirs = pair
    connection = await EngineConnection.open(ours, take=ignore)
    theirs.close()

    is_lost = await connection.ends_within(PATIENCE_S)
    connection.send(Abort(1))
    await connection.aclose()

    assert is_lost
