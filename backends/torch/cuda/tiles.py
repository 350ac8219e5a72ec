"""Splits the queries of a step into tiles, and the keys of a tile into splits: plain arithmetic, no Triton."""

from __future__ import annotations

import msgspec
import numpy as np

from backends.api import I32

TILE_ROWS = (16, 64, 128)
"""The fewest that a tensor core takes, and sizes worth a compilation of their own."""
MAX_SPLITS = 32
_KEYS_OF_A_SPLIT = 256
"""Below this many keys, merging costs more than splitting gains."""


class Tiling(msgspec.Struct, frozen=True):
    """`rows` (query, head of the group) against `keys` at a time: sizes for which sm_90's registers suffice."""

    rows: int
    head_dim: int
    element_size: int

    @property
    def padded_dim(self) -> int:
        return max(16, _power_of_two(self.head_dim))

    @property
    def keys(self) -> int:
        """16 KB of them, so that two stages of keys and values fit into shared memory; float32 has no tensor cores."""
        if self.element_size == 4:
            return 16
        return min(64, max(16, 2**14 // (self.padded_dim * self.element_size)))

    @property
    def num_warps(self) -> int:
        return 8 if self.rows > 64 or self.element_size == 4 else 4


def choose_tiling(longest: int, *, group: int, head_dim: int, element_size: int) -> Tiling:
    """Tiling for a step whose longest sequence has `longest` new tokens, `group` heads sharing a key head."""
    bytes_per_row = _power_of_two(head_dim) * element_size
    largest = 128 if bytes_per_row <= 256 else 64 if bytes_per_row <= 512 else 16
    sizes = [rows for rows in TILE_ROWS if group <= rows <= largest] or [_power_of_two(group)]
    rows = next((rows for rows in sizes if rows >= longest * group), sizes[-1])
    return Tiling(rows, head_dim, element_size)


def cut_tiles(q_start: I32, *, tile_queries: int) -> tuple[I32, I32]:
    """Sequence of each tile, and the index of its first query among the sequence's new tokens; int32."""
    counts = -(-np.diff(q_start) // tile_queries)
    sequence = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    query = (np.arange(len(sequence)) - before) * tile_queries
    return sequence, query.astype(np.int32)


def choose_splits(programs: int, longest_kv: int, *, processors: int) -> int:
    """Shares of the keys that keep about two programs on each of the device's processors."""
    return max(1, min(2 * processors // max(1, programs), longest_kv // _KEYS_OF_A_SPLIT, MAX_SPLITS))


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
