"""Q8_1 in files: 36 bytes a block as ggml counts, or 40 as the gguf package does."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from backends.weights.formats import FORMATS, q8_1
from backends.weights.formats.format import U8
from backends.weights.gguf import read_gguf

COLUMNS = 256


def values(rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(rows).standard_normal((rows, COLUMNS)).astype(np.float32)


def write_file(path: Path, tensors: dict[str, U8], *, alignment: int = 32) -> Path:
    """By the gguf package, which takes the bytes as they are. F32 before and behind."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_tensor("first", np.ones(8, np.float32))
    for name, data in tensors.items():
        shape = (data.shape[0], COLUMNS // 32 * 40)  # the package derives the columns from its own block size
        table = data if data.shape == shape else np.zeros(shape, np.uint8)
        writer.add_tensor(name, table, raw_dtype=gguf.GGMLQuantizationType.Q8_1)
    writer.add_tensor("last", np.full(8, 2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def wide_blocks(rows: int) -> U8:
    encoded: U8 = q8_1.WIDE.encode(values(rows))
    return encoded


@pytest.mark.parametrize("rows", [1, 2, 3, 40])
def test_files_of_the_gguf_package_become_ggmls_blocks(tmp_path: Path, rows: int) -> None:
    """The same codes; what is read is what ggml would have written."""
    path = write_file(tmp_path / "q.gguf", {"w": wide_blocks(rows)})

    found = read_gguf(path).tensors

    assert (found["w"].format, found["w"].shape) == ("Q8_1", (rows, COLUMNS))
    assert np.array_equal(found["w"].data, FORMATS["Q8_1"].encode(values(rows)))
    assert FORMATS["F32"].decode(found["last"].data).tolist() == [[2.0] * 8]


def test_small_tensors_go_the_way_of_large_ones(tmp_path: Path) -> None:
    """One block leaves as much room in either layout; another tensor of the file decides."""
    path = write_file(tmp_path / "q.gguf", {"small": wide_blocks(1), "large": wide_blocks(40)}, alignment=1024)

    found = read_gguf(path).tensors

    assert np.array_equal(found["small"].data, FORMATS["Q8_1"].encode(values(1)))
    assert np.array_equal(found["large"].data, FORMATS["Q8_1"].encode(values(40)))


def test_the_layouts_hold_the_same_values() -> None:
    """Up to the rounding of the scale to float16."""
    wide = wide_blocks(5)

    exact, rounded = q8_1.WIDE.decode(wide), FORMATS["Q8_1"].decode(q8_1.narrow(wide.reshape(-1, 40)).reshape(5, -1))

    np.testing.assert_allclose(rounded, exact, rtol=2**-11)
