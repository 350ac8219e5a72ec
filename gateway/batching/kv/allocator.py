"""Allocator of KV memory for sequences.

`KVAllocator` is the interface for the scheduler; `gateway.batching.kv.slots` and `gateway.batching.kv.blocks` implement
the two layouts.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.batching.sequence import Sequence


class KVCopy(msgspec.Struct, frozen=True):
    """Copy of the first `num_tokens` tokens of `source` to `destination`, maybe the same, due before the next step."""

    source: int
    destination: int
    num_tokens: int


class KVAllocator(Protocol):
    """Allocates memory for keys and values. A sequence keeps its blocks until `release`; it may have to extend them."""

    @property
    def block_tokens(self) -> int | None:
        """Tokens per block in the paged layout; None in the slot layout."""
        ...

    def can_ever_allocate(self, num_tokens: int) -> bool:
        """True if a sequence can get memory for `num_tokens` tokens when it runs alone."""
        ...

    def can_allocate(self, sequence: Sequence) -> bool:
        """True if `allocate` would succeed now."""
        ...

    def allocate(self, sequence: Sequence) -> int:
        """Allocate memory for a sequence. Returns how many of its tokens are cached there already.


        Raises `ValueError` when `can_allocate` is false or the sequence already has memory.
        """
        ...

    def extend(self, sequence: Sequence, num_tokens: int) -> bool:
        """Extend its memory to its first `num_tokens` tokens. False, and nothing changed, if memory is short.

        When it runs alone, this succeeds for all that `can_ever_allocate` allows.
        """
        ...

    def take_copies(self) -> list[KVCopy]:
        """Copies that allocations since the last call rely on, to be made in this order before the next step."""
        ...

    def computed(self, sequence: Sequence) -> None:
        """Note that more of its tokens have keys and values than before."""
        ...

    def release(self, sequence: Sequence, *, is_sound: bool = True) -> None:
        """Free its memory; what was computed there may be cached if it is sound. Raises `KeyError` without memory."""
        ...

    def blocks_of(self, sequence_id: int) -> list[int]:
        """Slot of a sequence, or its blocks in the order of tokens. Raises `KeyError` for a sequence without memory."""
        ...

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if a block or slot is lost or allocated twice."""
        ...
