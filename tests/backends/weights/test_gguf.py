"""The GGUF reader against files of the gguf package."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from backends.errors import UnsupportedModel
from backends.weights.gguf import read_gguf, read_metadata
from backends.weights.tensor import decode
from tests.backends.weights.gguf_bytes import File, Tensor, array, pair, text
from tests.costs import cost_ratio


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_metadata_of_every_type_comes_back(tmp_path: Path) -> None:
    """Scalars, strings and arrays keep their type and value; arrays become tuples."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -32768)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "größe 漢")
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.5])
    writer.add_array("bools", [True, False])
    writer.add_array("strings", ["", "a", "漢"])
    finish(writer)

    metadata = read_metadata(tmp_path / "m.gguf")

    assert metadata == {
        "general.architecture": "llama",
        "u8": 255,
        "i8": -128,
        "u16": 65535,
        "i16": -32768,
        "u32": 2**32 - 1,
        "i32": -(2**31),
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "text": "größe 漢",
        "ints": (1, -2, 3),
        "floats": (0.5, -1.5),
        "bools": (True, False),
        "strings": ("", "a", "漢"),
    }
    assert metadata["yes"] is True


@pytest.mark.parametrize("format_name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_tensors_come_back_as_stored(tmp_path: Path, format_name: str) -> None:
    """Shapes are row-major, blocks stay blocks, and the values are the reference's."""
    values = np.random.default_rng(0).standard_normal((6, 64), dtype=np.float32)
    kind = gguf.GGMLQuantizationType[format_name]
    raw = np.ascontiguousarray(gguf.quantize(values, kind))
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("norm", values[0])
    writer.add_tensor("matrix", raw, raw_dtype=kind)
    finish(writer)

    tensors = read_gguf(tmp_path / "m.gguf").tensors

    assert tensors["norm"].shape == (64,)
    assert np.array_equal(decode(tensors["norm"]), values[0])
    assert tensors["matrix"].shape == (6, 64)
    assert tensors["matrix"].format == format_name
    assert np.array_equal(tensors["matrix"].data, raw.view(np.uint8).reshape(6, -1))
    assert np.array_equal(decode(tensors["matrix"]), gguf.dequantize(raw, kind).reshape(6, 64))


def test_own_alignment_is_respected(tmp_path: Path) -> None:
    """`general.alignment` moves the start of the data."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(256)
    writer.add_tensor("a", np.arange(5, dtype=np.float32))
    writer.add_tensor("b", np.arange(7, dtype=np.float32))
    finish(writer)

    tensors = read_gguf(tmp_path / "m.gguf").tensors

    assert decode(tensors["a"]).tolist() == [0, 1, 2, 3, 4]
    assert decode(tensors["b"]).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_views_are_read_only(tmp_path: Path) -> None:
    """A mapped model cannot be changed by accident."""
    path = File().write(tmp_path / "m.gguf")

    assert not read_gguf(path).tensors["t"].data.flags.writeable


def test_version_2_is_read(tmp_path: Path) -> None:
    """Version 2 has the same little-endian layout."""
    path = File(version=2).write(tmp_path / "m.gguf")

    assert read_gguf(path).tensors["t"].shape == (4, 4)


def test_a_file_without_tensors_is_sound(tmp_path: Path) -> None:
    """Vocabulary-only files exist; they are readable, if not loadable."""
    path = File(tensors=(), data_bytes=0).write(tmp_path / "m.gguf")

    assert read_gguf(path).tensors == {}


def read_plainly(strings: bytes) -> list[str]:
    """One after the other, without any check."""
    found, at = [], 0
    while at < len(strings):
        (length,) = struct.unpack_from("<Q", strings, at)
        found.append(strings[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return found


def test_large_vocabularies_are_read_fast(tmp_path: Path) -> None:
    """150,000 tokens with scores, types and merges cost at most four times what their strings cost, plainly read."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_token_list([f"token{i}" for i in range(150_000)])
    writer.add_token_merges([f"tok en{i}" for i in range(150_000)])
    writer.add_token_types([1] * 150_000)
    writer.add_token_scores([0.0] * 150_000)
    finish(writer)
    strings = b"".join(text(f"token{i}") for i in range(300_000))

    metadata = read_metadata(tmp_path / "m.gguf")
    ratio = cost_ratio(lambda: read_metadata(tmp_path / "m.gguf"), lambda: read_plainly(strings), rounds=3)

    assert ratio < 4
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    assert tokens[149_999] == "token149999"


def test_metadata_alone_needs_no_sound_tensors(tmp_path: Path) -> None:
    """`read_metadata` stops before the tensor table."""
    path = File(tensors=(Tensor(ggml_type=99),)).write(tmp_path / "m.gguf")

    assert read_metadata(path) == {"general.architecture": "llama"}


UNSUPPORTED: dict[str, tuple[File, str]] = {
    "version 1": (File(version=1), "version 1 is not supported"),
    "version 4": (File(version=4), "version 4 is not supported"),
    "big-endian": (File(version=3 << 24), "big-endian"),
    "unknown ggml type": (File(tensors=(Tensor(ggml_type=23),)), "tensor 't': ggml type 23 is not supported"),
    "part of a split": (File(pairs=(pair("split.count", 2, b"\3\0"),)), "one of 3 parts"),
}


@pytest.mark.parametrize(("file", "message"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_sound_files_without_a_rule_are_unsupported(tmp_path: Path, file: File, message: str) -> None:
    """Files that other tools may read are `UnsupportedModel`, which says what to do or what is supported."""
    path = file.write(tmp_path / "m.gguf")

    with pytest.raises(UnsupportedModel, match=message) as caught:
        read_gguf(path)

    assert str(path) in str(caught.value)


def test_empty_arrays_and_strings_are_sound(tmp_path: Path) -> None:
    """Nothing is a legal amount."""
    pairs = (pair("none", 9, array(4, 0)), pair("empty", 8, text("")))
    path = File(pairs=pairs).write(tmp_path / "m.gguf")

    assert read_metadata(path) == {"none": (), "empty": ""}
