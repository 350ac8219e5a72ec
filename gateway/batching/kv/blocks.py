"""The paged layout: a sequence has as many blocks as its tokens need, and shares those of a common prefix.

```
free       contains nothing; the lowest number is allocated first
allocated  to one sequence or more; full blocks may be shared and are then never written again
evictable  allocated to no sequence; keeps its cached tokens until it is reused or evicted
```
A quarter of the memory is protected from other tenants: a flood of requests of one tenant cannot evict what others
cached there, and what they cached beyond it is evicted from the tenant that has most.
"""

from __future__ import annotations

import heapq

import msgspec

from gateway.batching.kv.allocator import KVCopy
from gateway.batching.kv.evictable import EvictableBlocks
from gateway.batching.kv.prefix_index import HashChain
from gateway.batching.sequence import Sequence

_RESERVE = 4
"""One part in `_RESERVE` of the memory is for cached prefixes of others."""


class CachedBlock(msgspec.Struct, frozen=True):
    """Contents of a full block: keys and values of these tokens, after all that the hash covers."""

    digest: bytes
    token_ids: list[int]


class BlockAllocator:
    """`KVAllocator` of the paged layout. Without `has_prefixes` nothing is cached and nothing shared."""

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
        """Number of blocks that are allocated to no sequence."""
        return len(self._free) + len(self._evictable)

    def can_ever_allocate(self, num_tokens: int) -> bool:
        return num_tokens <= self.capacity

    def can_allocate(self, sequence: Sequence) -> bool:
        """True if blocks suffice for it plus one per running sequence, so that it is not preempted at once."""
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
        """Return nothing: blocks are shared, not copied."""
        return []

    def computed(self, sequence: Sequence) -> None:
        if not self._has_prefixes:
            return
        blocks = self._allocated[sequence.id]
        for number in range(sequence.num_cached_blocks, sequence.num_computed // self.block_tokens):
            self._keep(blocks[number], sequence, number)
            sequence.num_cached_blocks = number + 1

    def release(self, sequence: Sequence, *, is_sound: bool = True) -> None:
        # Backwards, so that the end of a prompt is evicted before its beginning.
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
        """Number of blocks that this scope may take: free ones, its cached ones, and others' beyond the reserve.

        When it runs alone it may take everything, so that it can end.
        """
        own = self._evictable.num_of(scope)
        others = len(self._evictable) - own
        return len(self._free) + own + (others if is_alone else max(0, others - self._num_reserved))

    def _find(self, sequence: Sequence) -> list[int]:
        """Blocks of its longest cached prefix."""
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
        """Evict a block: one of this scope, unless others have more than the reserve or it has none."""
        own = self._evictable.num_of(scope)
        is_own = own > 0 and len(self._evictable) - own <= self._num_reserved
        block = self._evictable.oldest_of(scope) if is_own else self._evictable.oldest_of_largest()
        self._evictable.remove(block)
        self._forget(block)
        return block

    def _keep(self, block: int, sequence: Sequence, number: int) -> None:
        """Make a full block findable, unless another one has the same contents or it was itself found in the cache."""
        digest = self._hashes.hash_of(sequence, number)
        if digest not in self._by_digest:
            self._by_digest[digest] = block
            self._cached[block] = CachedBlock(digest, self._hashes.block_of(sequence, number))

    def _forget(self, block: int) -> None:
        kept = self._cached.pop(block, None)
        if kept is not None:
            del self._by_digest[kept.digest]
