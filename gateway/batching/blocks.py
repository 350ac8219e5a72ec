"""KV memory, handed out to sequences.

`KVRooms` is the face that the scheduler sees; `gateway.batching.slots` is the slot layout behind it.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.batching.sequence import Sequence


class Reuse(msgspec.Struct, frozen=True):
    """Before the next step: the first `num_tokens` tokens of `source` become those of `destination`, maybe the same."""

    source: int
    destination: int
    num_tokens: int


class KVRooms(Protocol):
    """Rooms for keys and values. A reservation covers all tokens that a sequence may ever hold."""

    def can_reserve(self, num_tokens: int) -> bool:
        """Whether `reserve` would succeed now."""
        ...

    def can_ever_reserve(self, num_tokens: int) -> bool:
        """Whether `reserve` would succeed with nobody else there."""
        ...

    def reserve(self, sequence: Sequence) -> int:
        """Give a sequence its room. Returns how many of its tokens have keys and values there, once reused.

        Raises `ValueError` when `can_reserve` says no or it has one already.
        """
        ...

    def take_reuses(self) -> list[Reuse]:
        """What reservations since the last call rely on, to be done in this order before the next step."""
        ...

    def computed(self, sequence: Sequence) -> None:
        """More of its tokens have keys and values than before."""
        ...

    def release(self, sequence: Sequence, *, is_sound: bool = True) -> None:
        """Take the room back; what it holds may serve others if it is sound. Raises `KeyError` without a room."""
        ...

    def slot_of(self, sequence_id: int) -> int:
        """Index for `Step.slot`. Raises `KeyError` for a sequence without a room."""
        ...

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if a room is lost or given out twice."""
        ...
