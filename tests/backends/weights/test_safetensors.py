"""The safetensors reader against files of the safetensors package, and against damaged ones."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from backends.errors import ModelError, UnsupportedModel
from backends.weights.formats import FORMATS
from backends.weights.safetensors import read_safetensors, read_safetensors_folder
from backends.weights.tensor import decode
from tests.costs import cost_ratio

Header = dict[str, object]


def entry(begin: int = 0, end: int = 16, *, shape: object = (2, 2), dtype: object = "F32") -> Header:
    return {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}


def write(path: Path, header: Header | bytes, data: bytes = bytes(16), *, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def test_reads_what_the_reference_writes(tmp_path: Path) -> None:
    """Names, shapes, formats and values of a file of the safetensors package come back."""
    rng = np.random.default_rng(0)
    tensors: dict[str, npt.NDArray[np.generic]] = {
        "matrix": rng.standard_normal((3, 5), dtype=np.float32),
        "half": rng.standard_normal((4, 2)).astype(np.float16),
        "vector": rng.standard_normal(7, dtype=np.float32),
        "cube": rng.standard_normal((2, 3, 4), dtype=np.float32),
        "scalar": np.array(2.5, np.float32),
    }
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})

    stored = read_safetensors(tmp_path / "m.safetensors")

    assert stored.keys() == tensors.keys()
    for name, values in tensors.items():
        assert stored[name].shape == values.shape
        assert np.array_equal(decode(stored[name]), values)
    assert stored["half"].format == "F16"
    assert stored["vector"].data.shape == (1, 28)
    assert stored["cube"].data.shape == (6, 16)


def test_bfloat16_keeps_its_bits(tmp_path: Path) -> None:
    """BF16 tensors stay two bytes an element and decode by padding with zeros."""
    values = np.array([[1.0, -2.5], [3e38, 0.0]], np.float32)
    raw = FORMATS["BF16"].encode(values)
    path = write(tmp_path / "m.safetensors", {"t": entry(0, 8, dtype="BF16")}, raw.tobytes())

    tensor = read_safetensors(path)["t"]

    assert tensor.format == "BF16"
    assert np.array_equal(tensor.data, raw)
    assert np.allclose(decode(tensor), values, rtol=4e-3)


def test_views_are_read_only(tmp_path: Path) -> None:
    """A mapped model cannot be changed by accident."""
    path = write(tmp_path / "m.safetensors", {"t": entry()})

    assert not read_safetensors(path)["t"].data.flags.writeable


DAMAGED: dict[str, tuple[Header | bytes, str]] = {
    "not json": (b"{{{{{{{{", "malformed"),
    "not an object": (b"[1, 2, 3]", "object"),
    "deeply nested": (b'{"t":' + b"[" * 100_000, "recursion"),
    "not utf-8": (b'{"\xff": 1}', "header"),
    "entry is a number": ({"t": 5}, "tensor 't'"),
    "field missing": ({"t": {"dtype": "F32", "shape": [4]}}, "data_offsets"),
    "field unknown": ({"t": {**entry(), "code": "x"}}, "code"),
    "negative dimension": ({"t": entry(shape=[-2, -2])}, "must be positive"),
    "dimension 0": ({"t": entry(0, 0, shape=[0, 4])}, "must be positive"),
    "dimension 2^63": ({"t": entry(shape=[2**63, 4])}, "needs"),
    "dimension 2^200": ({"t": entry(shape=[2**200, 4])}, "needs"),
    "product wraps to 16 bytes": ({"t": entry(shape=[2**32, 2**32 + 1, 4])}, "needs"),
    "nine dimensions": ({"t": entry(shape=[1] * 8 + [4])}, "shape"),
    "shape of strings": ({"t": entry(shape=["2", "2"])}, "shape"),
    "too few bytes": ({"t": entry(0, 12)}, "needs 16 bytes"),
    "end before begin": ({"t": entry(16, 0)}, "needs 16 bytes"),
    "negative begin": ({"t": entry(-16, 0)}, "data_offsets -16"),
    "beyond the file": ({"t": entry(0, 64, shape=[16])}, "truncated or damaged"),
    "offset 2^63": ({"t": entry(2**63, 2**63 + 16)}, "leaves a hole"),
    "overlap": ({"a": entry(0, 12, shape=[3]), "b": entry(8, 16, shape=[2])}, "overlaps"),
    "same bytes twice": ({"a": entry(), "b": entry()}, "overlaps"),
    "hole": ({"a": entry(0, 4, shape=[1]), "b": entry(8, 16, shape=[2])}, "leaves a hole"),
    "unused bytes at the end": ({"a": entry(0, 8, shape=[2])}, "8 bytes after the last tensor"),
    "metadata is a list": ({"__metadata__": [1], "t": entry()}, "__metadata__"),
    "endless name": ({"n" * 5000: entry()}, "5000 characters"),
}


@pytest.mark.parametrize(("header", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_headers_are_refused(tmp_path: Path, header: Header | bytes, message: str) -> None:
    """Every kind of damage is a `ModelError` that names the file and what is wrong."""
    path = write(tmp_path / "bad.safetensors", header)

    with pytest.raises(ModelError, match=message) as caught:
        read_safetensors(path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("dtype", ["F64", "I64", "BOOL", "F8_E4M3", "??"])
def test_other_element_types_are_named(tmp_path: Path, dtype: str) -> None:
    """An element type without a decoder is unsupported, and the message says which."""
    path = write(tmp_path / "m.safetensors", {"t": entry(dtype=dtype)})

    with pytest.raises(UnsupportedModel, match=r"tensor 't' has dtype .*; supported are F32, F16, BF16"):
        read_safetensors(path)


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 100_000_001, 1000])
def test_header_lengths_beyond_the_file_allocate_nothing(tmp_path: Path, length: int) -> None:
    """A huge header length is refused for no more than ten times what it costs to read a sound file."""
    path = write(tmp_path / "m.safetensors", {"t": entry()}, length=length)
    sound = write(tmp_path / "sound.safetensors", {"t": entry()})

    def refuse() -> None:
        with pytest.raises(ModelError, match="header announces"):
            read_safetensors(path)

    tracemalloc.start()
    refuse()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 1 << 20
    assert cost_ratio(refuse, lambda: read_safetensors(sound)) < 10


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """A download that stopped anywhere never gives a model."""
    whole = write(
        tmp_path / "whole.safetensors", {"a": entry(0, 8, shape=[2]), "b": entry(8, 16, shape=[2])}
    ).read_bytes()
    path = tmp_path / "part.safetensors"

    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            read_safetensors(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 160), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_never_escape_the_error_tree(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    """Reading succeeds or raises `ModelError` and nothing else, whatever bytes change."""
    header: Header = {"a": entry(0, 8, shape=[2]), "b": entry(8, 16, shape=[2, 1]), "__metadata__": {"format": "pt"}}
    path = write(tmp_path / "m.safetensors", header)
    raw = bytearray(path.read_bytes())
    for position, value in flips:
        raw[position % len(raw)] = value
    path.write_bytes(raw)

    try:
        stored = read_safetensors(path)
    except ModelError:
        return

    assert sum(tensor.data.size for tensor in stored.values()) <= 16


def shard_folder(folder: Path, weight_map: object) -> Path:
    write(folder / "one.safetensors", {"a": entry()})
    write(folder / "two.safetensors", {"b": entry()})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_shards_are_joined_by_the_index(tmp_path: Path) -> None:
    """The tensors of all shards come back under one mapping."""
    folder = shard_folder(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})

    assert read_safetensors_folder(folder).keys() == {"a", "b"}


def test_a_single_file_needs_no_index(tmp_path: Path) -> None:
    """`model.safetensors` is read alone, as transformers does, even next to an index."""
    folder = shard_folder(tmp_path, {"a": "missing.safetensors"})
    write(folder / "model.safetensors", {"c": entry()})

    assert read_safetensors_folder(folder).keys() == {"c"}


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "two.safetensors"}, "tensor 'a' is missing"),
        ({"a": "three.safetensors"}, "no such file"),
        ({"a": "../one.safetensors"}, "not the plain name"),
        ({"a": "/etc/one.safetensors"}, "not the plain name"),
        ({"a": "sub\\one.safetensors"}, "not the plain name"),
        ({"a": "one.safetensors\0"}, "not the plain name"),
        ({"a": "one.bin"}, "not the plain name"),
        ({"a": 5}, "weight_map"),
        ([], "weight_map"),
    ],
    ids=["wrong shard", "no shard", "parent", "absolute", "backslash", "nul", "pickle", "number", "list"],
)
def test_bad_indexes_are_refused(tmp_path: Path, weight_map: object, message: str) -> None:
    """An index that lies, or points out of the folder, is an error."""
    folder = shard_folder(tmp_path, weight_map)

    with pytest.raises(ModelError, match=message):
        read_safetensors_folder(folder)
