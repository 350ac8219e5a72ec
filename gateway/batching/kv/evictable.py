"""Blocks that are allocated to no sequence but keep cached tokens, until they are reused or evicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator


class EvictableBlocks:
    """Evictable blocks per scope, the least recently used first. Every operation takes constant time."""

    def __init__(self) -> None:
        self._scopes: dict[str, dict[int, None]] = {}
        self._by_size: defaultdict[int, dict[str, None]] = defaultdict(dict)
        self._scope_of: dict[int, str] = {}
        self._largest = 0

    def __len__(self) -> int:
        return len(self._scope_of)

    def __contains__(self, block: int) -> bool:
        return block in self._scope_of

    def __iter__(self) -> Iterator[int]:
        return iter(self._scope_of)

    def num_of(self, scope: str) -> int:
        return len(self._scopes.get(scope, ()))

    def add(self, block: int, scope: str) -> None:
        """Add a block as the most recently used one of its scope."""
        blocks = self._scopes.setdefault(scope, {})
        self._resize(scope, len(blocks), len(blocks) + 1)
        blocks[block] = None
        self._scope_of[block] = scope

    def remove(self, block: int) -> None:
        """Remove a block. Raises `KeyError` if it is not evictable."""
        scope = self._scope_of.pop(block)
        blocks = self._scopes[scope]
        self._resize(scope, len(blocks), len(blocks) - 1)
        del blocks[block]
        if not blocks:
            del self._scopes[scope]

    def oldest_of(self, scope: str) -> int:
        """Least recently used block of this scope. Raises `KeyError` if there is none."""
        return next(iter(self._scopes[scope]))

    def oldest_of_largest(self) -> int:
        """Least recently used block of the scope that has most. Raises `KeyError` if no block is evictable."""
        if not self._scope_of:
            raise KeyError("nothing rests")
        return self.oldest_of(next(iter(self._by_size[self._largest])))

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if the recorded sizes of scopes differ from the actual ones."""
        sizes = {scope: size for size, scopes in self._by_size.items() for scope in scopes}
        if sizes != {scope: len(blocks) for scope, blocks in self._scopes.items()}:
            raise RuntimeError(f"sizes of scopes are {sizes}, but their blocks {self._scopes}")
        if self._largest != max(sizes.values(), default=0):
            raise RuntimeError(f"the largest scope is not of {self._largest} blocks: {sizes}")

    def _resize(self, scope: str, before: int, after: int) -> None:
        self._by_size[before].pop(scope, None)
        if not self._by_size[before]:
            del self._by_size[before]
        if after:
            self._by_size[after][scope] = None
        # One block was added or removed, so no scope is larger than this one was or is.
        if after > self._largest or (before == self._largest and before not in self._by_size):
            self._largest = after
