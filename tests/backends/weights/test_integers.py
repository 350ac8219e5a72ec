"""Blocks taken apart and put together again are what the decoder says."""

from __future__ import annotations

import numpy as np
import pytest

from backends.weights.formats import FORMATS
from backends.weights.integers import SPLITTERS, integers_of
from tests.backends.random_blocks import random_tensor

ROWS, COLUMNS = 12, 512


@pytest.mark.parametrize("name", SPLITTERS)
def test_integers_stand_for_the_decoded_values(name: str) -> None:
    """value = scale * (code - centre) + offset, within the rounding of float32."""
    tensor = random_tensor(name, rows=ROWS, columns=COLUMNS, seed=3)

    found = integers_of(tensor)

    codes = found.codes.reshape(ROWS, -1, found.group).astype(np.float32) - 2 ** (found.bits - 1)
    values = codes * found.scales[:, :, None]
    if found.offsets is not None:
        values += found.offsets[:, :, None]
    expected = FORMATS[name].decode(tensor.data)
    assert found.codes.dtype == np.uint8
    assert found.codes.max() < 2**found.bits
    np.testing.assert_allclose(values.reshape(ROWS, COLUMNS), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_every_quantized_format_can_be_taken_apart() -> None:
    """Also those that are added later."""
    assert set(SPLITTERS) == {name for name, form in FORMATS.items() if form.block_size > 1}
