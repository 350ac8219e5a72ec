"""Frames survive any cutting."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.messages import Abort, FrameBuffer, Stop, ToEngine, encode_frame


@given(st.lists(st.integers(1, 12), max_size=20))
def test_frames_cut_anywhere_come_out_whole(cuts: list[int]) -> None:
    """The byte stream's borders mean nothing."""
    sent: list[ToEngine] = [Abort(7), Stop(), Abort(300)]
    data = b"".join(map(encode_frame, sent))
    buffer, bodies = FrameBuffer(), []
    for cut in cuts:
        bodies += buffer.feed(data[:cut])
        data = data[cut:]

    bodies += buffer.feed(data)

    assert [msgspec.msgpack.decode(body, type=ToEngine) for body in bodies] == sent


def test_absurd_length_is_refused() -> None:
    """A damaged stream must not make us wait for gigabytes."""
    with pytest.raises(ValueError, match="exceeds"):
        FrameBuffer().feed(b"\xff\xff\xff\xff")
