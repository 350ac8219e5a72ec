"""Low-rank sums against NumPy: groups of rows, ranks, parts, odd shapes, levels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from backends.kernels.library import LEVELS, Library
from backends.kernels.low_rank import low_rank_sums

F32 = npt.NDArray[np.float32]
Parts = list[tuple[F32, F32] | None]
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> F32:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def adapter(rank: int, columns: int, part_rows: list[int]) -> Parts:
    return [(normal(rank, columns), normal(rows, rank)) for rows in part_rows]


def reference(x: F32, lora: npt.NDArray[np.int32], adapters: dict[int, Parts], part_rows: list[int]) -> F32:
    out = np.zeros((len(x), sum(part_rows)))
    for row, slot in enumerate(lora):
        parts = adapters.get(int(slot), [None] * len(part_rows))
        sums = [
            np.zeros(rows) if pair is None else pair[1].astype(np.float64) @ (pair[0].astype(np.float64) @ x[row])
            for rows, pair in zip(part_rows, parts, strict=True)
        ]
        out[row] = np.concatenate(sums)
    return out.astype(np.float32)


@pytest.mark.parametrize("columns", [16, 40, 256])
@pytest.mark.parametrize("part_rows", [[64], [300], [48, 16, 16], [30, 7, 5]])
@pytest.mark.parametrize("num_rows", [1, 5, 70])
def test_rows_meet_their_own_adapter(library: Library, columns: int, part_rows: list[int], num_rows: int) -> None:
    """Rows use their own adapter in any order, also rows of empty slots; a part that is not adapted adds nothing."""
    adapters = {slot: adapter(rank, columns, part_rows) for slot, rank in ((0, 1), (2, 16), (3, 5))}
    adapters[3][-1] = None if len(part_rows) > 1 else adapters[3][-1]
    x = normal(num_rows, columns)
    lora = RANDOM.integers(-1, 4, num_rows).astype(np.int32)

    sums = low_rank_sums(library, x, lora, adapters, part_rows=part_rows, threads=2)

    expected = reference(x, lora, adapters, part_rows)
    np.testing.assert_allclose(sums, expected, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


def test_gated_parts_lie_in_turns(library: Library) -> None:
    """16 rows of the gate, 16 of what it gates."""
    adapters = {0: adapter(4, 32, [48, 48])}
    x, lora = normal(3, 32), np.array([0, -1, 0], np.int32)

    turns = low_rank_sums(library, x, lora, adapters, part_rows=[48, 48], gated=True)

    apart = low_rank_sums(library, x, lora, adapters, part_rows=[48, 48])
    assert np.array_equal(turns, apart.reshape(3, 2, 3, 16).swapaxes(1, 2).reshape(3, 96))


def test_levels_and_company_change_no_bit(library: Library) -> None:
    """Bit for bit with the scalar level, and a row alone equals the same row among many."""
    adapters = {slot: adapter(rank, 72, [40, 24]) for slot, rank in ((0, 7), (1, 16))}
    x, lora = normal(11, 72), np.array([0, 1, -1] * 3 + [1, 1], np.int32)
    best, found = library.level, {}
    for name in LEVELS:
        if library.set_level(name):
            found[name] = low_rank_sums(library, x, lora, adapters, part_rows=[40, 24], threads=3)
    library.set_level(best)

    assert all(np.array_equal(sums, found[best]) for sums in found.values())
    for row in range(len(x)):
        alone = low_rank_sums(library, x[row : row + 1], lora[row : row + 1], adapters, part_rows=[40, 24])
        assert np.array_equal(alone[0], found[best][row])
