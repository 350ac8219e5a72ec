"""KV memory, handed out to sequences.

`KVAllocator` is what the scheduler sees; `gateway.batching.kv.slots` and `gateway.batching.kv.blocks` implement the two
layouts.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.batching.sequence import Sequence


class KVCopy(msgspec.Struct, frozen=True):
    """Before the next step: the first `num_tokens` tokens of `source` become those of `destination`, maybe the same."""

    source: int
    destination: int
    num_tokens: int


class KVAllocator(Protocol):
    """Rooms for keys and values. Whoever has a room keeps it until `release`; it may have to grow on the way."""

    @property
    def block_tokens(self) -> int | None:
        """Tokens of a block, where rooms are made of blocks; None where a room is one slot."""
        ...

    def can_ever_allocate(self, num_tokens: int) -> bool:
        """Whether a sequence may come to hold so many tokens with nobody else there."""
        ...

    def can_allocate(self, sequence: Sequence) -> bool:
        """Whether `allocate` would succeed now."""
        ...

    def allocate(self, sequence: Sequence) -> int:
        """Give a sequence its room. Returns how many of its tokens have keys and values there, once reused.

        Raises `ValueError` when `can_allocate` says no or it has one already.
        """
        ...

    def extend(self, sequence: Sequence, num_tokens: int) -> bool:
        """Let its room hold its first `num_tokens` tokens. False, and nothing changed, if memory is short.

        With no other room there it succeeds for all that `can_ever_allocate` allows.
        """
        ...

    def take_copies(self) -> list[KVCopy]:
        """What reservations since the last call rely on, to be done in this order before the next step."""
        ...

    def computed(self, sequence: Sequence) -> None:
        """More of its tokens have keys and values than before."""
        ...

    def release(self, sequence: Sequence, *, is_sound: bool = True) -> None:
        """Take the room back; what it holds may serve others if it is sound. Raises `KeyError` without a room."""
        ...

    def blocks_of(self, sequence_id: int) -> list[int]:
        """Its slot, or its blocks in the order of tokens. Raises `KeyError` for a sequence without a room."""
        ...

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if a room is lost or given out twice."""
        ...
