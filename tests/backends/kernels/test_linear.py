"""Products over tiles: against float64, on every level that this CPU has, on shapes that fit badly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import UnsupportedModel
from backends.kernels.library import F32, LEVELS, Library, aligned
from backends.kernels.linear import ActivationType, Linear, linear_of
from backends.weights.formats import FORMATS
from backends.weights.tensor import decode
from tests.backends.random_blocks import random_tensor

QUANTIZED = [name for name, form in FORMATS.items() if form.block_size > 1]
BY_SIXTEEN = ("Q2_K", "Q3_K", "Q6_K")
"""Formats whose activations are rounded in blocks of 16, like the groups of their weights."""


def activations(count: int, columns: int, *, seed: int = 0) -> F32:
    values: F32 = np.random.default_rng(seed).standard_normal((count, columns)).astype(np.float32)
    return values


def rounded(x: F32, name: str) -> F32:
    """Activations rounded to int8 for weights of a format, by the same float32 operations."""
    blocks = x.reshape(len(x), -1, 16 if name in BY_SIXTEEN else 32)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(largest > 0, np.rint(blocks * (np.float32(127) / largest)), 0)
    values: F32 = (codes * (largest / np.float32(127))).astype(np.float32)
    return values.reshape(x.shape)


def product(x: F32, w: F32) -> F32:
    y: F32 = (x.astype(np.float64) @ w.astype(np.float64).T).astype(np.float32)
    return y


def levels_here(library: Library) -> list[str]:
    before = library.level
    here = [name for name in LEVELS if library.set_level(name)]
    library.set_level(before)
    return here


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("count", [1, 7, 8, 9, 70])
def test_products_are_those_of_the_decoded_weights(library: Library, name: str, count: int) -> None:
    """Nothing but the rounding of activations to int8 is lost: weights enter exactly."""
    tensor = random_tensor(name, rows=45, columns=512)
    x = activations(count, 512)

    found = linear_of(library, tensor).multiply(x)

    expected = product(rounded(x, name), decode(tensor))
    assert found.shape == (count, 45)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(QUANTIZED),
    count=st.integers(1, 70),
    outputs=st.integers(1, 70),
    blocks=st.integers(1, 9),
    seed=st.integers(0, 999),
)
def test_every_level_gives_the_same_bits(
    library: Library, name: str, count: int, outputs: int, blocks: int, seed: int
) -> None:
    """The bits are the same whatever the shape, the format, and how the tiles are split over threads."""
    columns = blocks * FORMATS[name].block_size
    linear = linear_of(library, random_tensor(name, rows=outputs, columns=columns, seed=seed))
    x = activations(count, columns, seed=seed)
    before, found = library.level, []
    for level in levels_here(library):
        assert library.set_level(level)
        found += [linear.multiply(x), linear.multiply(x, threads=3)]
    library.set_level(before)

    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K"])
def test_rows_do_not_depend_on_their_company(library: Library, name: str) -> None:
    """A row gives the same bits alone and among any others."""
    linear = linear_of(library, random_tensor(name, rows=40, columns=512))
    x = activations(21, 512)

    together = linear.multiply(x)

    assert np.array_equal(np.concatenate([linear.multiply(x[row : row + 1]) for row in range(21)]), together)


@pytest.mark.parametrize("name", QUANTIZED)
def test_the_error_of_int8_activations_is_small(library: Library, name: str) -> None:
    """The error against the fp32 product is 0.5 % of the outputs' size, and with blocks of 16 a tenth less."""
    tensor = random_tensor(name, rows=64, columns=1024)
    x = activations(16, 1024)

    found = linear_of(library, tensor).multiply(x)

    expected = product(x, decode(tensor))
    most = 0.0048 if name in BY_SIXTEEN else 0.0055
    assert np.linalg.norm(found - expected) <= most * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("activation", "name"), [("swiglu", "Q4_0"), ("geglu_tanh", "Q8_0"), ("swiglu", "Q4_K"), ("swiglu", "Q6_K")]
)
def test_gates_are_applied_in_passing(library: Library, activation: ActivationType, name: str) -> None:
    """Gate and up in one product, with their biases."""
    gate, up = (random_tensor(name, rows=48, columns=512, seed=seed) for seed in (1, 2))
    x, bias = activations(5, 512), np.random.default_rng(3).standard_normal((2, 48)).astype(np.float32)
    linear = linear_of(library, gate, gated=up)
    turns = np.stack([half.reshape(-1, 16) for half in bias], axis=1).reshape(-1)

    found = linear.multiply(x, bias=turns, activation=activation, threads=2)

    gates, ups = (product(rounded(x, name), decode(half)) + bias[i] for i, half in enumerate((gate, up)))
    expected = _activated(gates.astype(np.float64), activation) * ups
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def _activated(gates: np.ndarray[tuple[int, ...], np.dtype[np.float64]], activation: ActivationType) -> F32:
    with np.errstate(over="ignore"):
        if activation == "swiglu":
            return np.asarray(gates / (1 + np.exp(-gates)), np.float32)
        inner = np.sqrt(2 / np.pi) * (gates + 0.044715 * gates**3)
        return np.asarray(gates / 2 * (1 + np.tanh(inner)), np.float32)


def test_bias_and_residual_are_added(library: Library) -> None:
    """The residual after everything else, on an odd number of outputs."""
    tensor = random_tensor("Q5_1", rows=37, columns=64)
    x, bias, residual = activations(9, 64), activations(1, 37, seed=1)[0], activations(9, 37, seed=2)
    linear = linear_of(library, tensor)

    found = linear.multiply(x, bias=bias, residual=residual)

    np.testing.assert_allclose(found, linear.multiply(x) + bias + residual, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["Q4_0", "Q6_K"])
def test_what_is_not_finite_stays_visible(library: Library, bad: float, name: str) -> None:
    """Values that are not finite show in their own row only: an engine has to see a broken row, and to go on with the
    others.
    """
    linear = linear_of(library, random_tensor(name, rows=32, columns=256))
    x = activations(3, 256)
    x[1, 40] = bad

    found = linear.multiply(x)

    assert not np.isfinite(found[1]).any()
    assert np.isfinite(found[[0, 2]]).all()


def test_zeros_and_tiny_activations_give_zeros(library: Library) -> None:
    """No division by zero, no garbage from an inverse that overflows."""
    linear = linear_of(library, random_tensor("Q8_0", rows=32, columns=64))
    x = np.stack([np.zeros(64), np.full(64, 1e-40)]).astype(np.float32)

    assert not linear.multiply(x).any()


def test_nothing_is_written_beside_the_result(library: Library) -> None:
    """Odd numbers of outputs: the bytes behind the result and behind the packed tiles stay as they were."""
    tensor = random_tensor("Q6_K", rows=19, columns=256)
    x = activations(3, 256)
    size = library.functions.hk_packed_bytes(FORMATS["Q6_K"].ggml_type, 19, 256)
    room = aligned(size + 64)
    room[size:] = 0xA5
    assert (
        library.functions.hk_pack(
            FORMATS["Q6_K"].ggml_type, 19, 256, np.ascontiguousarray(tensor.data).ctypes.data, room.ctypes.data
        )
        == 0
    )
    linear = Linear(library=library, ggml_type=14, rows=19, columns=256, packed=room[:size])

    found = linear.multiply(x)

    assert (room[size:] == 0xA5).all()
    assert np.array_equal(found, linear_of(library, tensor).multiply(x))


@pytest.mark.parametrize(
    ("name", "most"), [("Q4_0", 1.0), ("Q4_K", 1.03), ("Q3_K", 1.04), ("Q8_0", 1.0), ("Q6_K", 1.0), ("Q2_K", 1.0)]
)
def test_tiles_are_as_large_as_the_file(library: Library, name: str, most: float) -> None:
    """The 6-bit scales of Q3_K and Q4_K are spread to bytes; nothing else is added."""
    tensor = random_tensor(name, rows=64, columns=1024)

    assert linear_of(library, tensor).packed.nbytes <= most * tensor.data.nbytes


def test_shapes_that_make_no_tiles_are_refused(library: Library) -> None:
    """Partial blocks, unknown formats, sizes that overflow: no allocation, no tiles."""
    size = library.functions.hk_packed_bytes

    assert [size(2, 16, 33), size(12, 16, 128), size(99, 16, 256), size(2, 0, 32), size(2, -5, 32)] == [-1] * 5
    assert [size(2, 1 << 62, 32), size(2, 16, 1 << 62), size(4, 16, 32), size(-1, 16, 32)] == [-1] * 4
    with pytest.raises(UnsupportedModel, match="makes no tiles"):
        linear_of(library, random_tensor("F32", rows=4, columns=32))
