"""Row reordering for rotary embeddings, on the bytes of every format."""

from __future__ import annotations

import numpy as np
import pytest

from backends.weights.formats import FORMATS, Format
from backends.weights.rotary import HalfSplitSource, half_split_rows
from backends.weights.tensor import StoredTensor, decode

HEADS, HEAD_DIM, COLUMNS = 3, 8, 256


def interleaved_rows() -> list[int]:
    """Interleaved rows by definition: row 2d of a head is row d of its first half, row 2d+1 row d of its second."""
    half = HEAD_DIM // 2
    heads = range(0, HEADS * HEAD_DIM, HEAD_DIM)
    return [head + part * half + d for head in heads for d in range(half) for part in (0, 1)]


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_matrix_rows_return_to_half_split_order(form: Format) -> None:
    """Undoing the interleaving of whole stored rows gives the original bytes in every format."""
    size = (HEADS * HEAD_DIM, form.bytes_per_row(COLUMNS))
    original = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    stored = StoredTensor("q", form.name, (HEADS * HEAD_DIM, COLUMNS), original[interleaved_rows()])

    found = half_split_rows(stored, num_heads=HEADS)

    assert np.array_equal(found.data, original)
    assert found.shape == stored.shape


def test_biases_are_reordered_by_element() -> None:
    """A bias is a vector of one element a row."""
    original = np.arange(HEADS * HEAD_DIM, dtype=np.float32)
    raw = FORMATS["F32"].encode(original[interleaved_rows()].reshape(1, -1))
    stored = StoredTensor("q.bias", "F32", (HEADS * HEAD_DIM,), raw)

    found = half_split_rows(stored, num_heads=HEADS)

    assert found.data.shape == (1, HEADS * HEAD_DIM * 4)
    assert np.array_equal(decode(found), original)


def test_source_reorders_only_the_named_tensors() -> None:
    """Tensors without rotary heads are handed out untouched."""
    data = np.arange(8, dtype=np.uint8).reshape(8, 1)
    tensors = {name: StoredTensor(name, "F32", (8, 1), data) for name in ("q", "v")}

    source = HalfSplitSource(tensors, num_heads={"q": 2})

    assert list(source) == ["q", "v"]
    assert len(source) == 2
    assert source["v"].data is data
    assert source["q"].data.reshape(-1).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
