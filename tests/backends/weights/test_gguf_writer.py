"""The GGUF writer against our reader and the gguf package."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ModelError
from backends.weights.gguf import read_gguf, read_metadata
from backends.weights.gguf.writer import EncodedValue, GgufWriter, Kind, TensorEntry, array, scalar

TEXT = st.text(max_size=20)
VALUES: dict[Kind, st.SearchStrategy[bool | int | float | str]] = {
    Kind.UINT8: st.integers(0, 2**8 - 1),
    Kind.INT8: st.integers(-(2**7), 2**7 - 1),
    Kind.UINT16: st.integers(0, 2**16 - 1),
    Kind.INT16: st.integers(-(2**15), 2**15 - 1),
    Kind.UINT32: st.integers(0, 2**32 - 1),
    Kind.INT32: st.integers(-(2**31), 2**31 - 1),
    Kind.FLOAT32: st.floats(width=32, allow_nan=False),
    Kind.BOOL: st.booleans(),
    Kind.STRING: TEXT,
    Kind.UINT64: st.integers(0, 2**64 - 1),
    Kind.INT64: st.integers(-(2**63), 2**63 - 1),
    Kind.FLOAT64: st.floats(allow_nan=False),
}
Stored = tuple[Kind, bool | int | float | str | list[bool | int | float | str]]


@st.composite
def stored_values(draw: st.DrawFn) -> Stored:
    kind = draw(st.sampled_from(list(Kind)))
    one = VALUES[kind]
    return kind, draw(one | st.lists(one, max_size=6))


def encode(stored: Stored) -> EncodedValue:
    kind, value = stored
    return array(kind, value) if isinstance(value, list) else scalar(kind, value)


def write(path: Path, metadata: dict[str, EncodedValue], tensors: dict[TensorEntry, np.ndarray] | None = None) -> int:
    tensors = tensors or {}
    with path.open("wb") as file:
        writer = GgufWriter(file, metadata=metadata, tensors=list(tensors))
        writer.write_head()
        for data in tensors.values():
            writer.write_rows(data[:1])
            if len(data) > 1:
                writer.write_rows(data[1:])
        writer.finish()
    return writer.num_bytes


@given(pairs=st.dictionaries(st.text(min_size=1, max_size=30), stored_values(), max_size=8))
def test_any_metadata_comes_back(tmp_path_factory: pytest.TempPathFactory, pairs: dict[str, Stored]) -> None:
    """The reader returns any metadata as written, arrays as tuples."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"

    write(path, {key: encode(stored) for key, stored in pairs.items()})

    expected = {key: tuple(value) if isinstance(value, list) else value for key, (_, value) in pairs.items()}
    assert read_metadata(path) == expected


def test_the_gguf_package_reads_our_files(tmp_path: Path) -> None:
    """Names, shapes, formats, data and metadata, in the order written; the size is known beforehand."""
    rng = np.random.default_rng(0)
    tensors = {
        TensorEntry("matrix", "Q4_0", (3, 64)): rng.integers(0, 256, (3, 36), np.uint8),
        TensorEntry("vector", "F32", (5,)): np.arange(5, dtype=np.float32).view(np.uint8).reshape(1, -1),
        TensorEntry("stack", "F16", (2, 3, 4)): np.ones((6, 4), np.float16).view(np.uint8),
    }
    metadata = {
        "general.architecture": scalar(Kind.STRING, "llama"),
        "llama.block_count": scalar(Kind.UINT32, 7),
        "tokenizer.ggml.tokens": array(Kind.STRING, ["a", "größe"]),
    }

    num_bytes = write(tmp_path / "t.gguf", metadata, tensors)

    assert (tmp_path / "t.gguf").stat().st_size == num_bytes
    reader = gguf.GGUFReader(tmp_path / "t.gguf")
    assert reader.fields["llama.block_count"].contents() == 7
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["a", "größe"]
    for found, (entry, data) in zip(reader.tensors, tensors.items(), strict=True):
        assert (found.name, found.tensor_type.name) == (entry.name, entry.format)
        assert tuple(reversed(found.shape.tolist())) == entry.shape
        assert found.data.tobytes() == data.tobytes()


def test_our_reader_reads_our_tensors(tmp_path: Path) -> None:
    """Tensors keep their bytes, and vectors are one row."""
    data = np.arange(8, dtype=np.float32).view(np.uint8).reshape(1, -1)

    write(tmp_path / "t.gguf", {}, {TensorEntry("v", "F32", (8,)): data})

    tensor = read_gguf(tmp_path / "t.gguf").tensors["v"]
    assert (tensor.shape, tensor.format) == ((8,), "F32")
    assert np.array_equal(tensor.data, data)


@pytest.mark.parametrize(
    ("kind", "value"), [(Kind.UINT8, 256), (Kind.UINT32, -1), (Kind.UINT32, "a"), (Kind.STRING, "\ud800")]
)
def test_values_that_do_not_fit_are_refused(kind: Kind, value: int | str) -> None:
    """A value is never wrapped or cut."""
    with pytest.raises(ModelError):
        scalar(kind, value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (TensorEntry("x" * 64, "F32", (1,)), "63 bytes"),
        (TensorEntry("x", "F32", ()), "1 to 4"),
        (TensorEntry("x", "F32", (0, 4)), "1 to 4"),
        (TensorEntry("x", "Q4_K", (2, 128)), "multiple of 256"),
    ],
)
def test_tensors_that_no_reader_takes_are_refused(entry: TensorEntry, message: str) -> None:
    """Tensors that no reader takes are refused without writing anything."""
    with pytest.raises(ModelError, match=message):
        GgufWriter(BytesIO(), metadata={}, tensors=[entry])


def test_names_are_unique() -> None:
    """Two tensors under one name would hide each other."""
    entry = TensorEntry("x", "F32", (1,))

    with pytest.raises(ModelError, match="share a name"):
        GgufWriter(BytesIO(), metadata={}, tensors=[entry, entry])


def test_amounts_of_data_are_checked() -> None:
    """A tensor is neither left incomplete nor overfilled."""
    writer = GgufWriter(BytesIO(), metadata={}, tensors=[TensorEntry("x", "F32", (2, 4))])
    writer.write_rows(np.zeros((1, 16), np.uint8))

    with pytest.raises(ModelError, match="'x' is incomplete"):
        writer.finish()
    with pytest.raises(ModelError, match="more tensor data"):
        writer.write_rows(np.zeros((2, 16), np.uint8))
