"""Every stored form in MLX: decoded to the same values, multiplied as they are."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from backends.mlx.affine import affine_parts
from backends.mlx.matrix import FORMATS, make_matrix
from backends.weights.formats import FORMATS as STORED
from backends.weights.integers import SPLITTERS
from backends.weights.tensor import decode
from tests.backends.random_blocks import random_tensor


def test_every_format_is_declared() -> None:
    """All that the loaders know."""
    assert set(FORMATS) == set(STORED)


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_the_decoders_values(name: str) -> None:
    """Whole and by row, of one tensor and of several below each other; exact up to one rounding of scale * code."""
    tensors = [random_tensor(name, seed=1), random_tensor(name, rows=17, seed=2)]
    expected = np.concatenate([decode(tensor) for tensor in tensors])

    found = np.array(make_matrix(tensors, exact=False).rows(mx.array([64, 3, 3, *range(65)])))

    np.testing.assert_allclose(found, expected[[64, 3, 3, *range(65)]], rtol=2e-6, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("num_rows", [1, 3, 40])
@pytest.mark.parametrize("name", FORMATS)
def test_products(name: str, num_rows: int, exact: bool) -> None:
    """float32 activations in every form: only the order of sums differs."""
    tensor = random_tensor(name, rows=96, columns=1024)
    x = np.random.default_rng(0).standard_normal((num_rows, 1024), dtype=np.float32)
    expected = x @ decode(tensor).T

    found = np.array(make_matrix([tensor], exact=exact).product(mx.array(x)))

    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", SPLITTERS)
def test_codes_keep_their_width(name: str) -> None:
    """Packed to the format's own number of bits, whatever the containers of others."""
    bits = {"Q2_K": 2, "Q3_K": 3, "Q4": 4, "Q5": 5, "Q6_K": 6, "Q8": 8}
    tensor = random_tensor(name)

    parts = affine_parts(tensor)

    assert parts.bits == bits.get(name, bits.get(name[:2]))
    assert parts.codes.nbytes == tensor.shape[0] * tensor.shape[1] * parts.bits // 8
