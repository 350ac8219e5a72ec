"""The slot layout: a contiguous slot for each sequence; slots of ended sequences keep their prefixes for later ones.

```
free       contains nothing; the lowest goes first, low slots stay warm in the CPU's cache
allocated  to a running sequence; others may copy its prefix
evictable  keeps what an ended sequence computed, until a sequence takes it over or the slot is needed
```
"""

from __future__ import annotations

import heapq
from collections import Counter

from gateway.batching.kv.allocator import KVCopy
from gateway.batching.kv.prefix_index import PrefixIndex, PrefixMatch
from gateway.batching.sequence import Sequence


class SlotAllocator:
    """`KVAllocator` of the slot layout. Without `prefixes` nothing is cached and nothing shared."""

    def __init__(self, *, num_slots: int, slot_tokens: int, prefixes: PrefixIndex | None = None) -> None:
        self._num_slots = num_slots
        self._slot_tokens = slot_tokens
        self._prefixes = prefixes
        self._free = list(range(num_slots))
        self._allocated: dict[int, int] = {}
        self._evictable: dict[int, None] = {}
        """Least recently used first."""
        self._scopes: dict[int, str] = {}
        """Scope of the sequence that has a slot or had it last."""
        self._copies: list[KVCopy] = []

    @property
    def num_free(self) -> int:
        """Number of slots that are allocated to no sequence."""
        return len(self._free) + len(self._evictable)

    @property
    def block_tokens(self) -> None:
        return None

    def can_ever_allocate(self, num_tokens: int) -> bool:
        return num_tokens <= self._slot_tokens and self._num_slots > 0

    def can_allocate(self, sequence: Sequence) -> bool:
        return sequence.max_known <= self._slot_tokens and self.num_free > 0

    def allocate(self, sequence: Sequence) -> int:
        if sequence.id in self._allocated:
            raise ValueError(f"sequence {sequence.id} already has slot {self._allocated[sequence.id]}")
        if not self.can_allocate(sequence):
            raise ValueError(
                f"no slot for {sequence.max_known} tokens: {self.num_free} free of {self._slot_tokens} tokens"
            )
        found = self._find(sequence)
        slot = self._take_place() if found is None else self._take_found(found)
        self._allocated[sequence.id] = slot
        self._scopes[slot] = sequence.prefix_scope
        return 0 if found is None else found.num_tokens

    def extend(self, sequence: Sequence, num_tokens: int) -> bool:
        """Check only: a slot has room for all tokens from the start."""
        return num_tokens <= self._slot_tokens and sequence.id in self._allocated

    def take_copies(self) -> list[KVCopy]:
        reuses, self._copies = self._copies, []
        return reuses

    def computed(self, sequence: Sequence) -> None:
        if self._prefixes is not None:
            self._prefixes.learn(self._allocated[sequence.id], sequence)

    def release(self, sequence: Sequence, *, is_sound: bool = True) -> None:
        slot = self._allocated.pop(sequence.id)
        if self._prefixes is not None and is_sound and self._prefixes.num_tokens_of(slot):
            self._evictable[slot] = None
            return
        if self._prefixes is not None:
            self._prefixes.forget(slot)
        heapq.heappush(self._free, slot)

    def blocks_of(self, sequence_id: int) -> list[int]:
        return [self._allocated[sequence_id]]

    def check_integrity(self) -> None:
        slots = sorted([*self._free, *self._evictable, *self._allocated.values()])
        if slots != list(range(self._num_slots)):
            raise RuntimeError(
                f"slots lost or doubled: free {sorted(self._free)}, evictable {list(self._evictable)}, "
                f"allocated {self._allocated}"
            )
        if self._prefixes is not None:
            self._prefixes.check_integrity()

    @property
    def _prefixes_there(self) -> PrefixIndex:
        assert self._prefixes is not None  # only with an index are slots evictable or prefixes found
        return self._prefixes

    def _find(self, sequence: Sequence) -> PrefixMatch | None:
        # To score a prompt, the logits of all of its rows are needed.
        if self._prefixes is None or sequence.is_scoring:
            return None
        return self._prefixes.find(sequence)

    def _take_found(self, found: PrefixMatch) -> int:
        """Take the slot that has the prefix, or another one to copy the prefix to."""
        source = self._best_of(found)
        is_taken_over = self._may_be_taken_over(source, found.num_tokens)
        slot = source if is_taken_over else self._take_place(spared=source)
        if is_taken_over:
            del self._evictable[source]
            self._prefixes_there.cut(source, found.num_tokens)
        elif source in self._evictable:
            # It was used just now, so it goes last.
            del self._evictable[source]
            self._evictable[source] = None
        self._copies.append(KVCopy(source, slot, found.num_tokens))
        return slot

    def _best_of(self, found: PrefixMatch) -> int:
        """Best slot to reuse: an evictable one with little else in it, so that it may be taken over."""
        num_tokens_of = self._prefixes_there.num_tokens_of
        return min(found.places, key=lambda slot: (slot not in self._evictable, num_tokens_of(slot)))

    def _may_be_taken_over(self, slot: int, num_tokens: int) -> bool:
        """True if the slot is evictable and most of its contents will be reused, or no other slot is left."""
        if slot not in self._evictable:
            return False
        return 2 * num_tokens >= self._prefixes_there.num_tokens_of(slot) or self.num_free == 1

    def _take_place(self, *, spared: int | None = None) -> int:
        """A free slot, else the one that is needed least."""
        if self._free:
            return heapq.heappop(self._free)
        slot = self._least_needed(spared)
        del self._evictable[slot]
        self._prefixes_there.forget(slot)
        return slot

    def _least_needed(self, spared: int | None) -> int:
        """Least recently used slot of the scope that has most: no scope is pushed below an equal share."""
        num_slots = Counter(self._scopes[slot] for slot in (*self._evictable, *self._allocated.values()))
        others = (slot for slot in self._evictable if slot != spared)
        return max(others, key=lambda slot: num_slots[self._scopes[slot]])
