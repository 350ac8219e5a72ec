"""KV memory, handed out to sequences.

`KVRooms` is the face that the scheduler sees. `Slots` serves the slot layout; a paged pool reserves as many blocks as
the same number of tokens needs and fits behind the same face.
"""

from __future__ import annotations

import heapq
from typing import Protocol


class KVRooms(Protocol):
    """Rooms for keys and values. A reservation covers all tokens that a sequence may ever hold."""

    def can_reserve(self, num_tokens: int) -> bool:
        """Whether `reserve` would succeed now."""
        ...

    def can_ever_reserve(self, num_tokens: int) -> bool:
        """Whether `reserve` would succeed with nobody else there."""
        ...

    def reserve(self, sequence_id: int, num_tokens: int) -> None:
        """Give a sequence its room. Raises `ValueError` when `can_reserve` says no or it has one already."""
        ...

    def release(self, sequence_id: int) -> None:
        """Take the room back. Raises `KeyError` for a sequence without one."""
        ...

    def slot_of(self, sequence_id: int) -> int:
        """Index for `Step.slot`. Raises `KeyError` for a sequence without a room."""
        ...

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if a room is lost or given out twice."""
        ...


class Slots:
    """One contiguous slot a sequence, the lowest free one first: low slots stay warm in the cache."""

    def __init__(self, *, num_slots: int, slot_tokens: int) -> None:
        self._num_slots = num_slots
        self._slot_tokens = slot_tokens
        self._free = list(range(num_slots))
        self._held: dict[int, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    def can_ever_reserve(self, num_tokens: int) -> bool:
        return num_tokens <= self._slot_tokens and self._num_slots > 0

    def can_reserve(self, num_tokens: int) -> bool:
        return num_tokens <= self._slot_tokens and bool(self._free)

    def reserve(self, sequence_id: int, num_tokens: int) -> None:
        if sequence_id in self._held:
            raise ValueError(f"sequence {sequence_id} already has slot {self._held[sequence_id]}")
        if not self.can_reserve(num_tokens):
            raise ValueError(f"no slot for {num_tokens} tokens: {self.num_free} free of {self._slot_tokens} tokens")
        self._held[sequence_id] = heapq.heappop(self._free)

    def release(self, sequence_id: int) -> None:
        heapq.heappush(self._free, self._held.pop(sequence_id))

    def slot_of(self, sequence_id: int) -> int:
        return self._held[sequence_id]

    def check_integrity(self) -> None:
        slots = sorted([*self._free, *self._held.values()])
        if slots != list(range(self._num_slots)):
            raise RuntimeError(f"slots lost or doubled: free {sorted(self._free)}, held {self._held}")
