"""Blocks taken apart and put together again are what the decoder says."""

from __future__ import annotations

import numpy as np
import pytest

from backends.weights.formats import FORMATS
from backends.weights.integers import SPLITTERS, integers_of
from tests.backends.random_blocks import random_tensor

ROWS, COLUMNS = 12, 512
HALF_ULP = 2.0**-24
"""The rounding of one float32 operation, of the size of its result."""


@pytest.mark.parametrize("name", SPLITTERS)
def test_integers_stand_for_the_decoded_values(name: str) -> None:
    """value = scale * (code - centre), bit for bit; with an offset, up to the roundings of both sums."""
    tensor = random_tensor(name, rows=ROWS, columns=COLUMNS, seed=3)

    found = integers_of(tensor)

    codes = found.codes.reshape(ROWS, -1, found.group).astype(np.float32) - 2 ** (found.bits - 1)
    scaled = codes * found.scales[:, :, None]
    offsets = np.zeros_like(found.scales) if found.offsets is None else found.offsets
    values = scaled + offsets[:, :, None]
    expected = FORMATS[name].decode(tensor.data).reshape(values.shape)
    sizes = np.abs(scaled) + np.abs(offsets)[:, :, None] + np.abs(expected)
    allowed = np.zeros_like(sizes) if found.offsets is None else 3 * HALF_ULP * sizes
    assert found.codes.dtype == np.uint8
    assert found.codes.max() < 2**found.bits
    assert (np.abs(values - expected) <= allowed).all()


def test_every_quantized_format_can_be_taken_apart() -> None:
    """Every quantized format can be split into integers and scales, also those that are added later."""
    assert set(SPLITTERS) == {name for name, form in FORMATS.items() if form.block_size > 1}
