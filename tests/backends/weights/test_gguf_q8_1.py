"""Q8_1 in files: 36 bytes a block as ggml counts, or 40 as the gguf package does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from backends.errors import ModelError
from backends.weights.formats import FORMATS, q8_1
from backends.weights.formats.format import F32, U8
from backends.weights.gguf import narrowed, read_gguf
from backends.weights.gguf.writer import GgufWriter, TensorEntry
from backends.weights.tensor import decode

COLUMNS = 256
NARROW, WIDE = FORMATS["Q8_1"], q8_1.WIDE


def values(rows: int, columns: int = COLUMNS) -> F32:
    return np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)


def write_wide(path: Path, tensors: Mapping[str, U8], *, alignment: int = 32) -> Path:
    """Write a file with the gguf package, which takes the bytes as they are; one F32 tensor comes first."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_tensor("first", np.ones(8, np.float32))
    for name, data in tensors.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_narrow(path: Path, tensors: Mapping[str, F32]) -> Path:
    """Write a file with our own writer."""
    entries = [TensorEntry(name, "Q8_1", rows.shape) for name, rows in tensors.items()]
    with path.open("wb") as file:
        writer = GgufWriter(file, metadata={}, tensors=entries)
        writer.write_head()
        for rows in tensors.values():
            writer.write_rows(NARROW.encode(rows))
        writer.finish()
    return path


@pytest.mark.parametrize("shape", [(1, 32), (2, 64), (1, 256), (3, 256), (40, 256)])
def test_files_of_the_gguf_package_are_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Exactly as stored; narrowed, they are what ggml would have written. One block or many."""
    stored = WIDE.encode(values(*shape))
    path = write_wide(tmp_path / "q.gguf", {"w": stored})

    found = read_gguf(path).tensors

    narrow = narrowed(found)["w"]
    assert np.array_equal(found["w"].data, stored)
    assert np.array_equal(decode(found["w"]), WIDE.decode(stored))
    assert (narrow.format, narrow.shape) == ("Q8_1", shape)
    assert np.array_equal(narrow.data, NARROW.encode(values(*shape)))


@pytest.mark.parametrize("shape", [(1, 32), (2, 64), (1, 256), (40, 256)])
def test_files_of_ggmls_blocks_are_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    """36 bytes a block need nothing done: the tensors are views of the file."""
    path = write_narrow(tmp_path / "q.gguf", {"a": values(*shape), "b": values(*shape)})

    found = read_gguf(path).tensors

    assert narrowed(found) is found
    assert not found["b"].data.flags.owndata
    assert np.array_equal(found["a"].data, NARROW.encode(values(*shape)))
    assert np.array_equal(found["b"].data, NARROW.encode(values(*shape)))


def test_small_tensors_go_the_way_of_large_ones(tmp_path: Path) -> None:
    """Few blocks leave as much space in either layout, here with zeros at their end; another tensor decides."""
    small = np.zeros((1, 32), np.float32)
    wide = {"small": WIDE.encode(small), "large": WIDE.encode(values(40))}

    found = narrowed(read_gguf(write_wide(tmp_path / "w.gguf", wide, alignment=1024)).tensors)
    ours = read_gguf(write_narrow(tmp_path / "n.gguf", {"small": small, "large": values(40)})).tensors

    for tensors in (found, ours):
        assert np.array_equal(tensors["small"].data, NARROW.encode(small))
        assert np.array_equal(tensors["large"].data, NARROW.encode(values(40)))


def test_the_wider_layout_stays_mapped(tmp_path: Path) -> None:
    """Reading copies nothing, and what was narrowed is not kept."""
    found = read_gguf(write_wide(tmp_path / "q.gguf", {"w": WIDE.encode(values(40))})).tensors

    tensors = narrowed(found)

    assert not found["w"].data.flags.owndata
    assert tensors["w"].data is not tensors["w"].data
    assert tensors["first"] is found["first"]
    assert list(tensors) == ["first", "w"]
    assert len(tensors) == 2


@pytest.mark.parametrize("cut", [32, 200, 1000])
def test_a_truncated_file_is_not_taken_for_the_other_layout(tmp_path: Path, cut: int) -> None:
    """A truncated file is refused: its last tensor has space for 36 bytes a block, and the others say 40."""
    path = write_wide(tmp_path / "q.gguf", {"a": WIDE.encode(values(40)), "b": WIDE.encode(values(40))})
    path.write_bytes(path.read_bytes()[:-cut])

    with pytest.raises(ModelError, match="neither 36 nor 40 bytes; the file is truncated or damaged"):
        read_gguf(path)


def test_more_bytes_than_either_layout_needs_are_refused(tmp_path: Path) -> None:
    """A file with more bytes than either layout needs is refused, since its layout cannot be determined."""
    path = write_narrow(tmp_path / "q.gguf", {"w": values(40)})
    path.write_bytes(path.read_bytes() + bytes(4096))

    with pytest.raises(ModelError, match="neither 36 nor 40 bytes"):
        read_gguf(path)


def test_a_last_tensor_may_lack_its_padding(tmp_path: Path) -> None:
    """A last tensor may lack its padding, since some writers end the file with the data."""
    wide = write_wide(tmp_path / "w.gguf", {"w": WIDE.encode(values(5, 32))})
    wide.write_bytes(wide.read_bytes()[:-24])
    ours = write_narrow(tmp_path / "n.gguf", {"w": values(5, 32)})
    ours.write_bytes(ours.read_bytes()[:-12])

    assert np.array_equal(read_gguf(wide).tensors["w"].data, WIDE.encode(values(5, 32)))
    assert np.array_equal(read_gguf(ours).tensors["w"].data, NARROW.encode(values(5, 32)))


@pytest.mark.parametrize("scale", [1e6, np.inf, np.nan])
def test_scales_beyond_float16_are_refused(tmp_path: Path, scale: float) -> None:
    """Never an infinite weight; the message names the tensor."""
    stored = WIDE.encode(values(1)).copy()
    stored[0, :4] = np.array([scale], "<f4").view(np.uint8)
    tensors = narrowed(read_gguf(write_wide(tmp_path / "q.gguf", {"w": stored})).tensors)

    with pytest.raises(ModelError, match="tensor 'w': a scale or sum of Q8_1 with float32 scales is beyond float16"):
        tensors["w"]


def test_narrowing_rounds_only_the_scales() -> None:
    """Narrowing rounds scales by up to 1 part in 2048, and where float16 is subnormal by up to half its smallest step
    times the code.
    """
    usual, tiny = WIDE.encode(values(5)), WIDE.encode(values(5) * np.float32(1e-5))

    for wide, atol in ((usual, 0.0), (tiny, 128 * 2.0**-25)):
        narrow = q8_1.narrow(wide.reshape(-1, 40)).reshape(5, -1)
        np.testing.assert_allclose(NARROW.decode(narrow), WIDE.decode(wide), rtol=2**-11, atol=atol)
