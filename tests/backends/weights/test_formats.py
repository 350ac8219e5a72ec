"""Every format against three references: the gguf package, a second reading of the layouts, llama.cpp's own blocks.

Decoded values are equal bit for bit, encoded blocks byte for byte.
"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import ModelError, UnsupportedModel
from backends.weights.formats import FORMATS, Format, bytes_per_row, format_by_ggml_type
from backends.weights.formats.format import F32, U8
from tests.backends.weights.golden.make import BLOCKS
from tests.backends.weights.second_reading import READERS, SCALES_AT

BLOCK_FORMATS = [form for form in FORMATS.values() if form.block_size > 1]
ENCODED_BY_GGUF = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
NOT_DECODED_BY_GGUF = ("Q8_1", "Q8_K")
WIDTH = 512
GOLDEN = np.load(BLOCKS)
EDGES = (0.0, -0.0, 6e-8, -6e-5, 65504.0, -65504.0, np.inf, -np.inf, np.nan)
"""Zero, subnormal, largest and broken scales."""

every_format = pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
decoded_by_gguf = pytest.mark.parametrize(
    "form", [form for name, form in FORMATS.items() if name not in NOT_DECODED_BY_GGUF], ids=lambda form: form.name
)
encoded_by_gguf = pytest.mark.parametrize(
    "form", [form for name, form in FORMATS.items() if name in ENCODED_BY_GGUF], ids=lambda form: form.name
)


def reference_decode(form: Format, data: U8) -> F32:
    with np.errstate(all="ignore"):
        return np.asarray(gguf.dequantize(data, gguf.GGMLQuantizationType[form.name]), np.float32)


def reference_encode(form: Format, values: F32) -> U8:
    with np.errstate(all="ignore"):
        encoded = gguf.quantize(values, gguf.GGMLQuantizationType[form.name])
    return np.ascontiguousarray(encoded).view(np.uint8).reshape(len(values), -1)


@every_format
def test_block_layout_is_that_of_ggml(form: Format) -> None:
    """Type number, block size and block bytes agree with the gguf package's tables; its Q8_1 is the wider one."""
    kind = gguf.GGMLQuantizationType[form.name]
    layouts = [form] if form.wider is None else [form, form.wider]

    assert form.ggml_type == kind
    assert (form.block_size, layouts[-1].block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert format_by_ggml_type(form.ggml_type) is form


@decoded_by_gguf
def test_random_bytes_decode_like_the_reference(form: Format) -> None:
    """Any bytes at all, infinite and NaN scales included, decode to the reference's bits."""
    data = np.random.default_rng(1).integers(0, 256, (500, form.bytes_per_row(WIDTH)), dtype=np.uint8)

    found = form.decode(data)

    assert found.shape == (500, WIDTH)
    assert found.dtype == np.float32
    assert np.array_equal(found, reference_decode(form, data), equal_nan=True)


@decoded_by_gguf
@pytest.mark.parametrize("byte", [0x00, 0x01, 0x7F, 0x80, 0xFF])
def test_uniform_blocks_decode_like_the_reference(form: Format, byte: int) -> None:
    """Blocks of one repeated byte reach the ends of every bit field."""
    data = np.full((2, form.bytes_per_row(WIDTH)), byte, np.uint8)

    found = form.decode(data)

    assert np.array_equal(found, reference_decode(form, data), equal_nan=True)


@pytest.mark.parametrize("name", READERS)
def test_blocks_decode_as_a_second_reader_reads_them(name: str) -> None:
    """1,000 blocks of random bytes, and every edge in every scale; down to the sign of zero."""
    form = FORMATS[name]
    random = np.random.default_rng(5).integers(0, 256, (1000, form.block_bytes), dtype=np.uint8)
    data = np.concatenate([random, *_with_edge_scales(name, random[: len(EDGES)])])

    found = form.decode(data)

    with np.errstate(all="ignore"):
        expected = np.array([list(READERS[name](block.tobytes())) for block in data], np.float32)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(np.signbit(found) & ~np.isnan(found), np.signbit(expected) & ~np.isnan(expected))


def _with_edge_scales(name: str, blocks: U8) -> list[U8]:
    """The blocks with an edge each, once for every scale of the format."""
    made = []
    for at in SCALES_AT.get(name, (0,)):
        edges = np.array(EDGES, "<f2" if name in SCALES_AT else "<f4").view(np.uint8).reshape(len(EDGES), -1)
        changed = blocks.copy()
        changed[:, at : at + edges.shape[1]] = edges
        made.append(changed)
    return made


@pytest.mark.parametrize("case", [name for name in GOLDEN.files if name not in ("rows", "importance")])
def test_rows_encode_to_the_blocks_of_llama_cpp(case: str) -> None:
    """Byte for byte: edges, weights of several sizes, with and without importance."""
    form = FORMATS[case.split()[0]]
    importance = GOLDEN["importance"] if case.endswith("weighted") else None

    assert np.array_equal(form.encode(GOLDEN["rows"], importance), GOLDEN[case])


def test_every_format_has_golden_blocks() -> None:
    """Every format has golden blocks, also those that are added later."""
    assert {form.name for form in BLOCK_FORMATS} <= set(GOLDEN.files)


@pytest.mark.parametrize("form", [form for form in BLOCK_FORMATS if form.encode_weighted], ids=lambda form: form.name)
def test_importance_lowers_the_error_where_it_counts(form: Format) -> None:
    """Columns that weigh more are nearer to the original than without."""
    values = np.random.default_rng(7).standard_normal((64, WIDTH)).astype(np.float32)
    importance = np.where(np.arange(WIDTH) % 4 == 0, np.float32(100), np.float32(0.01)).astype(np.float32)

    def error(data: U8) -> float:
        return float((importance * (form.decode(data) - values) ** 2).sum())

    assert error(form.encode(values, importance)) < 0.9 * error(form.encode(values))


@pytest.mark.parametrize("bad", [np.ones(WIDTH - 1), np.full(WIDTH, -1.0), np.full(WIDTH, np.nan)])
def test_an_importance_that_does_not_fit_is_refused(bad: F32) -> None:
    """Wrong length, negative or not a number."""
    with pytest.raises(ModelError, match="the importance"):
        FORMATS["Q4_K"].encode(np.ones((1, WIDTH), np.float32), bad.astype(np.float32))


@every_format
def test_decode_accepts_read_only_and_strided_bytes(form: Format) -> None:
    """Views of a mapped file are read-only; every second row of a tensor is not contiguous."""
    data = np.random.default_rng(2).integers(0, 120, (8, form.bytes_per_row(WIDTH)), dtype=np.uint8)
    data.setflags(write=False)

    found = form.decode(data[::2])

    assert np.array_equal(found, form.decode(data)[::2], equal_nan=True)


@encoded_by_gguf
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_normal_values_encode_like_the_reference(form: Format, scale: float) -> None:
    """Weights of ordinary sizes give the reference's bytes."""
    values = (np.random.default_rng(3).standard_normal((200, WIDTH)) * scale).astype(np.float32)

    assert np.array_equal(form.encode(values), reference_encode(form, values))


@encoded_by_gguf
@pytest.mark.parametrize(
    "row",
    [
        np.zeros(WIDTH),
        np.ones(WIDTH),
        -np.ones(WIDTH),
        np.linspace(-1, 1, WIDTH),
        np.tile([-8.0, 7.5, 0.5, -0.5], WIDTH // 4),
        np.tile([1.0, -1.0], WIDTH // 2),
        np.eye(1, WIDTH)[0],
        np.arange(WIDTH) - 127.5,
    ],
    ids=["zeros", "ones", "minus ones", "ramp", "halves", "tie of signs", "one peak", "half steps"],
)
def test_edge_rows_encode_like_the_reference(form: Format, row: F32) -> None:
    """Zeros, constants, ties and values half-way between two codes round as the reference rounds."""
    values = row.astype(np.float32).reshape(1, -1)

    assert np.array_equal(form.encode(values), reference_encode(form, values))


@encoded_by_gguf
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponents=st.tuples(st.integers(-18, 12), st.integers(-18, 12)))
def test_mixed_magnitudes_encode_like_the_reference(form: Format, seed: int, exponents: tuple[int, int]) -> None:
    """Blocks that mix magnitudes, scales that are subnormal as float16 included, give the reference's bytes."""
    rng = np.random.default_rng(seed)
    low, high = sorted(exponents)
    size = rng.uniform(low, high + 1, (4, 64))
    values = (rng.choice([-1.0, 1.0], size.shape) * np.exp2(size)).astype(np.float32)

    assert np.array_equal(form.encode(values), reference_encode(form, values))


@every_format
def test_encoding_what_was_decoded_loses_nothing_more(form: Format) -> None:
    """Decoded values of encoded weights stay within one quantization step of the originals."""
    values = np.random.default_rng(4).standard_normal((16, WIDTH)).astype(np.float32)
    tolerance = {
        "F32": 0.0,
        "F16": 3e-3,
        "BF16": 2e-2,
        "Q8_0": 0.03,
        "Q8_1": 0.03,
        "Q8_K": 0.03,
        "Q6_K": 0.15,
        "Q5_0": 0.3,
        "Q5_1": 0.2,
        "Q5_K": 0.2,
        "Q4_0": 0.6,
        "Q4_1": 0.4,
        "Q4_K": 0.4,
        "Q3_K": 1.0,
        "Q2_K": 1.5,
    }

    error = np.abs(form.decode(form.encode(values)) - values).max()

    assert error <= tolerance[form.name]


@every_format
def test_tiny_values_encode_to_zero(form: Format) -> None:
    """A block so small that its inverse scale would overflow becomes zeros, not garbage."""
    values = np.full((1, WIDTH), 1e-42, np.float32)

    found = form.decode(form.encode(values))

    assert np.abs(found).max() <= 1e-41


@every_format
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(form: Format, bad: float) -> None:
    """NaN and infinity have no code in a quantized block."""
    values = np.ones((1, WIDTH), np.float32)
    values[0, 5] = bad

    with pytest.raises(ModelError, match="not all finite"):
        form.encode(values)


@pytest.mark.parametrize(
    "form", [form for form in FORMATS.values() if form.name not in ("F32", "Q8_K")], ids=lambda form: form.name
)
def test_values_beyond_the_range_are_refused(form: Format) -> None:
    """A scale beyond float16 (or a value beyond bfloat16) is an error, never an infinite weight. Q8_K's is float32."""
    values = np.full((1, WIDTH), 3.4028235e38, np.float32)
    values[0, ::2] *= -1

    with pytest.raises(ModelError, match="exceeds the format's range"):
        form.encode(values)


@pytest.mark.parametrize("form", BLOCK_FORMATS, ids=lambda form: form.name)
def test_partial_blocks_are_refused(form: Format) -> None:
    """A row that is not a whole number of blocks is an error for bytes, for values and for sizes."""
    with pytest.raises(ModelError, match=f"a multiple of {form.block_size} is expected"):
        bytes_per_row(form.name, form.block_size + 1)
    with pytest.raises(ModelError, match="not a whole number"):
        form.decode(np.zeros((1, form.block_bytes + 1), np.uint8))


def test_bytes_per_row_counts_blocks() -> None:
    """The size of a row follows from the block layout."""
    assert bytes_per_row("Q4_0", 64) == 36
    assert bytes_per_row("F16", 3) == 6


def test_unknown_formats_name_the_known_ones() -> None:
    """An unknown name or number is answered with the list of what is supported."""
    with pytest.raises(UnsupportedModel, match="IQ1_S is not supported; supported are F32"):
        bytes_per_row("IQ1_S", 256)
    with pytest.raises(UnsupportedModel, match="ggml type 4 is not supported"):
        format_by_ggml_type(4)


def test_an_empty_tensor_decodes_to_nothing() -> None:
    """No rows in, no rows out."""
    assert FORMATS["F16"].decode(np.zeros((0, 4), np.uint8)).size == 0
