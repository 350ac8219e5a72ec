"""Features of blocks that slots lack: sharing, and sequences of any length in any blocks."""

from __future__ import annotations

import numpy as np
import pytest

from backends.api import Runner
from backends.testing.oracle import Oracle
from tests.backends.torch.drive import BLOCK, TABLES, Part, poison, run

PREFIX = np.random.default_rng(1).integers(0, 512, 2 * BLOCK).tolist()
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _poisoned(paged: Runner) -> None:
    """Free blocks hold NaN: reading one shows in every logit."""
    poison(paged)


def test_a_shared_prefix_is_computed_once(paged: Runner, oracle: Oracle) -> None:
    """Two sequences name the same blocks for the same beginning and go on in their own."""
    tables = TABLES.copy()
    tables[1, :2] = tables[0, :2]
    run(paged, Part(0, PREFIX, rows=0), tables=tables)

    logits = run(paged, Part(0, [5], start=32), Part(1, [6, 7], start=32), tables=tables)

    np.testing.assert_allclose(
        logits, [oracle.logits([*PREFIX, 5])[-1], oracle.logits([*PREFIX, 6, 7])[-1]], atol=TOLERANCE
    )


def test_a_copied_block_is_written_without_harm(paged: Runner, oracle: Oracle) -> None:
    """Copy on write: the half-full last block is copied, and both go on."""
    tables = TABLES.copy()
    tables[1, :1] = tables[0, :1]
    run(paged, Part(0, PREFIX[:20], rows=0), tables=tables)
    paged.copy_blocks([(int(tables[0, 1]), int(tables[1, 1]))])

    logits = run(paged, Part(1, [6], start=20), Part(0, [5], start=20), tables=tables)

    np.testing.assert_allclose(
        logits, [oracle.logits([*PREFIX[:20], 6])[-1], oracle.logits([*PREFIX[:20], 5])[-1]], atol=TOLERANCE
    )


def test_neighbouring_blocks_compute_the_same_as_scattered_ones(paged: Runner) -> None:
    """A run of adjacent blocks is a view, anything else a copy; the bits agree."""
    peer_sync = np.arange(TABLES.size, dtype=np.int32).reshape(TABLES.shape)
    backwards = peer_sync[:, ::-1].copy()
    results = []
    for tables in (peer_sync, backwards, TABLES):
        poison(paged)
        run(paged, Part(2, PREFIX, rows=0), tables=tables)
        results.append(run(paged, Part(2, [5, 6, 7], start=32, rows=3), tables=tables))

    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("length", [15, 16, 17, 31, 32, 33])
def test_around_the_edges_of_blocks(paged: Runner, oracle: Oracle, length: int) -> None:
    """A block table may end, in rubbish, where the tokens do."""
    tokens = [*PREFIX, 9, 8][: length + 1]
    tables = TABLES.copy()
    tables[0, -(-len(tokens) // BLOCK) :] = -1

    run(paged, Part(0, tokens[:-1], rows=0), tables=tables)
    logits = run(paged, Part(0, tokens[-1:], start=length), tables=tables)

    np.testing.assert_allclose(logits[0], oracle.logits(tokens)[-1], atol=TOLERANCE)
