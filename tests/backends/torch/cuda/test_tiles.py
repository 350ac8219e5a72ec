"""Cutting queries and keys: every query is in one tile, and what is chosen fits the device."""

from __future__ import annotations

import numpy as np
import pytest

from backends.torch.cuda.tiles import MAX_SPLITS, choose_splits, choose_tiling, cut_tiles


@pytest.mark.parametrize("tile_queries", [1, 4, 16])
def test_every_query_is_in_one_tile(tile_queries: int) -> None:
    """Tiles never span two sequences, and cover each of them from its first query on."""
    counts = [1, 16, 17, 5, 33]

    sequence, query = cut_tiles(np.cumsum([0, *counts]).astype(np.int32), tile_queries=tile_queries)

    covered = [
        (s, q + i) for s, q in zip(sequence, query, strict=True) for i in range(tile_queries) if q + i < counts[s]
    ]
    assert sequence.dtype == query.dtype == np.int32
    assert covered == [(s, i) for s, count in enumerate(counts) for i in range(count)]


@pytest.mark.parametrize("group", [1, 3, 4, 8, 17, 71, 200])
@pytest.mark.parametrize("longest", [1, 5, 4096])
@pytest.mark.parametrize("head_dim", [64, 96, 128, 256])
def test_a_tile_holds_a_whole_group(head_dim: int, longest: int, group: int) -> None:
    """A tile holds a whole group, however many heads share a key head; it is a power of two, as tensor cores need."""
    tiling = choose_tiling(longest, group=group, head_dim=head_dim, element_size=2)

    assert tiling.rows >= group
    assert tiling.rows.bit_count() == 1


def test_a_decode_step_has_the_smallest_tile() -> None:
    """One token of Llama's four heads a group needs 16 rows; a prompt takes the largest."""
    sizes = [choose_tiling(longest, group=4, head_dim=128, element_size=2).rows for longest in (1, 4, 5, 17, 1000)]

    assert sizes == [16, 16, 64, 128, 128]


@pytest.mark.parametrize(
    ("programs", "longest_kv", "expected"),
    [(8, 8192, MAX_SPLITS), (8, 1024, 4), (8, 100, 1), (64, 8192, 4), (512, 8192, 1), (0, 0, 1)],
)
def test_splits_fill_the_device(programs: int, longest_kv: int, expected: int) -> None:
    """One sequence is split far, a full batch not at all, and short contexts are left whole."""
    assert choose_splits(programs, longest_kv, processors=132) == expected
