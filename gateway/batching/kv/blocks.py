"""The paged layout: a sequence holds as many blocks as its tokens need, and shares those of a common beginning.

```
free      keeps nothing; the lowest goes first
held      by one sequence or more; whole blocks may be found by others, and nobody writes into them again
resting   held by nobody, keeps what was computed until it is found or its place is needed
```
A quarter of the memory is out of reach for whoever did not fill it: a flood of one tenant cannot push out what others
keep there, and what they keep beyond it goes from the one that keeps most.
"""

from __future__ import annotations

import heapq

import msgspec

from gateway.batching.kv.allocator import KVCopy
from gateway.batching.kv.evictable import EvictableBlocks
from gateway.batching.kv.prefix_index import HashChain
from gateway.batching.sequence import Sequence

_RESERVE = 4
"""One part in so many is for prefixes of others."""


class CachedBlock(msgspec.Struct, frozen=True):
    """What a whole block holds: keys and values of these tokens, after all that the hash stands for."""

    digest: bytes
    token_ids: list[int]


class BlockAllocator:
    """A `KVAllocator`. Without `has_prefixes` nothing is kept and nothing shared."""

    def __init__(self, *, num_blocks: int, block_tokens: int, has_prefixes: bool = True) -> None:
        self._num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._hashes = HashChain(block_tokens)
        self._has_prefixes = has_prefixes
        self._free = list(range(num_blocks))
        self._evictable = EvictableBlocks()
        self._allocated: dict[int, list[int]] = {}
        self._num_holders = [0] * num_blocks
        self._cached: dict[int, CachedBlock] = {}
        self._by_digest: dict[bytes, int] = {}
        self._num_reserved = num_blocks // _RESERVE

    @property
    def capacity(self) -> int:
        return self._num_blocks * self.block_tokens

    @property
    def num_free(self) -> int:
        """Blocks that no sequence holds."""
        return len(self._free) + len(self._evictable)

    def can_ever_allocate(self, num_tokens: int) -> bool:
        return num_tokens <= self.capacity

    def can_allocate(self, sequence: Sequence) -> bool:
        """Besides its own, a block for each that runs is left, so that it is not preempted at once."""
        return self._fits_behind(self._find(sequence), sequence)

    def allocate(self, sequence: Sequence) -> int:
        if sequence.id in self._allocated:
            raise ValueError(f"sequence {sequence.id} already has blocks {self._allocated[sequence.id]}")
        found = self._find(sequence)
        if not self._fits_behind(found, sequence):
            raise ValueError(f"no blocks for {sequence.num_known} tokens: {self.num_free} free of {self._num_blocks}")
        self._allocated[sequence.id] = found
        for block in found:
            self._add_holder(block)
        num_found = len(found)
        self._add(sequence, self._num_needed(sequence.num_known) - num_found)
        return num_found * self.block_tokens

    def extend(self, sequence: Sequence, num_tokens: int) -> bool:
        num_new = self._num_needed(num_tokens) - len(self._allocated[sequence.id])
        if num_new <= 0:
            return True
        if num_new > self._num_available(sequence.prefix_scope, is_alone=len(self._allocated) == 1):
            return False
        self._add(sequence, num_new)
        return True

    def take_copies(self) -> list[KVCopy]:
        """Blocks are shared, not copied."""
        return []

    def computed(self, sequence: Sequence) -> None:
        if not self._has_prefixes:
            return
        blocks = self._allocated[sequence.id]
        for number in range(sequence.num_cached_blocks, sequence.num_computed // self.block_tokens):
            self._keep(blocks[number], sequence, number)
            sequence.num_cached_blocks = number + 1

    def release(self, sequence: Sequence, *, is_sound: bool = True) -> None:
        # Backwards, so that the end of a prompt is forgotten before its beginning.
        for block in reversed(self._allocated.pop(sequence.id)):
            if not is_sound:
                self._forget(block)
            self._free_block(block, sequence.prefix_scope)
        sequence.num_cached_blocks = 0

    def blocks_of(self, sequence_id: int) -> list[int]:
        return self._allocated[sequence_id]

    def check_integrity(self) -> None:
        num_holders = [0] * self._num_blocks
        for blocks in self._allocated.values():
            for block in blocks:
                num_holders[block] += 1
        held = [block for block, number in enumerate(num_holders) if number]
        if num_holders != self._num_holders or sorted([*self._free, *self._evictable, *held]) != list(
            range(self._num_blocks)
        ):
            raise RuntimeError(
                f"blocks lost or doubled: {len(self._free)} free, {len(self._evictable)} evictable, "
                f"{len(held)} allocated"
            )
        if {kept.digest: block for block, kept in self._cached.items()} != self._by_digest:
            raise RuntimeError("hashes do not name the blocks that keep them")
        self._evictable.check_integrity()

    def _fits_behind(self, found: list[int], sequence: Sequence) -> bool:
        num_new = self._num_needed(sequence.num_known) - len(found)
        num_taken = sum(block in self._evictable for block in found)
        available = self._num_available(sequence.prefix_scope, is_alone=not self._allocated)
        return num_new + len(self._allocated) <= available - num_taken

    def _num_needed(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_tokens)

    def _num_available(self, scope: str, *, is_alone: bool) -> int:
        """Blocks that a sequence of this scope may take: free ones, its own, and what others keep beyond the reserve.

        With no other sequence there it may take everything, so that it can end.
        """
        own = self._evictable.num_of(scope)
        others = len(self._evictable) - own
        return len(self._free) + own + (others if is_alone else max(0, others - self._num_reserved))

    def _find(self, sequence: Sequence) -> list[int]:
        """Blocks of the longest beginning of its tokens that is kept."""
        # To score a prompt, the logits of all of its rows are needed.
        if not self._has_prefixes or sequence.is_scoring:
            return []
        found: list[int] = []
        for number in range(self._hashes.most_shared(sequence)):
            block = self._by_digest.get(self._hashes.hash_of(sequence, number))
            if block is None or self._cached[block].token_ids != self._hashes.block_of(sequence, number):
                break
            found.append(block)
        return found

    def _add_holder(self, block: int) -> None:
        if block in self._evictable:
            self._evictable.remove(block)
        self._num_holders[block] += 1

    def _free_block(self, block: int, scope: str) -> None:
        self._num_holders[block] -= 1
        if self._num_holders[block]:
            return
        if block in self._cached:
            self._evictable.add(block, scope)
        else:
            heapq.heappush(self._free, block)

    def _add(self, sequence: Sequence, num_new: int) -> None:
        blocks = self._allocated[sequence.id]
        for _ in range(num_new):
            block = heapq.heappop(self._free) if self._free else self._evict(sequence.prefix_scope)
            self._num_holders[block] += 1
            blocks.append(block)

    def _evict(self, scope: str) -> int:
        """The block that is needed least: one's own, unless others keep more than the reserve, or there is none."""
        own = self._evictable.num_of(scope)
        is_own = own > 0 and len(self._evictable) - own <= self._num_reserved
        block = self._evictable.oldest_of(scope) if is_own else self._evictable.oldest_of_largest()
        self._evictable.remove(block)
        self._forget(block)
        return block

    def _keep(self, block: int, sequence: Sequence, number: int) -> None:
        """Let it be found, unless another one holds the same or it is one that was found itself."""
        digest = self._hashes.hash_of(sequence, number)
        if digest not in self._by_digest:
            self._by_digest[digest] = block
            self._cached[block] = CachedBlock(digest, self._hashes.block_of(sequence, number))

    def _forget(self, block: int) -> None:
        kept = self._cached.pop(block, None)
        if kept is not None:
            del self._by_digest[kept.digest]
