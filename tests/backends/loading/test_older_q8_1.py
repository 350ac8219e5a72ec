"""Models whose Q8_1 matrices are in the older layout, 40 bytes a block."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from backends.loading import open_model
from backends.models.families.table import GGUF
from backends.quantize import quantize_file
from backends.testing.models import write_gguf_of
from backends.weights.formats import FORMATS, q8_1
from backends.weights.gguf import narrowed, read_gguf
from backends.weights.tensor import decode


def as_wide(path: Path, source: Path) -> Path:
    """A model file with all matrices in the wider layout, by the gguf package."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            kind = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], kind)
    for name, tensor in read_gguf(source).tensors.items():
        if len(tensor.shape) == 1:
            writer.add_tensor(name, decode(tensor))
        else:
            writer.add_tensor(name, q8_1.WIDE.encode(decode(tensor)), raw_dtype=gguf.GGMLQuantizationType.Q8_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def source(folder: Path, tmp_path: Path) -> Path:
    """A Llama in F32, so that both layouts are made of the same values."""
    return write_gguf_of(folder, tmp_path / "f32.gguf", "F32")


def test_runners_get_ggmls_blocks(source: Path, tmp_path: Path) -> None:
    """A whole model in the wider layout opens to what its twin in ggml's layout opens to, rotary rows included."""
    wide = as_wide(tmp_path / "wide.gguf", source)
    quantize_file(source, tmp_path / "narrow.gguf", format="Q8_1")

    assert GGUF["llama"].interleaved_rotary
    ours, theirs = open_model(wide).tensors, open_model(tmp_path / "narrow.gguf").tensors

    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].format == tensor.format == ("F32" if len(tensor.shape) == 1 else "Q8_1")
        assert np.array_equal(ours[name].data, tensor.data), name


def test_the_wider_layout_can_be_quantized(source: Path, tmp_path: Path) -> None:
    """The wider layout keeps its codes when quantized to Q8_1, and is decoded as runners read it for another format."""
    wide = as_wide(tmp_path / "wide.gguf", source)

    quantize_file(wide, tmp_path / "q8_1.gguf", format="Q8_1")
    quantize_file(wide, tmp_path / "q4_0.gguf", format="Q4_0")

    stored = narrowed(read_gguf(wide).tensors)
    same, other = read_gguf(tmp_path / "q8_1.gguf").tensors, read_gguf(tmp_path / "q4_0.gguf").tensors
    name = "blk.0.ffn_up.weight"
    assert np.array_equal(same[name].data, stored[name].data)
    assert np.array_equal(other[name].data, FORMATS["Q4_0"].encode(decode(stored[name])))
