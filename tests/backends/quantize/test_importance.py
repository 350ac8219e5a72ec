"""Importance matrices in both forms, whole and damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ModelError
from backends.quantize.importance import read_importance
from backends.weights.gguf.writer import GgufWriter, Kind, TensorEntry, array, scalar


def legacy(entries: dict[str, tuple[int, list[float]]], *, tail: bytes = b"") -> bytes:
    raw = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        raw += struct.pack("<i", len(name)) + name.encode()
        raw += struct.pack(f"<ii{len(values)}f", calls, len(values), *values)
    return raw + tail


SOUND = legacy({"a.weight": (2, [2.0, 4.0, 6.0]), "b.weight": (0, [1.0])}, tail=struct.pack("<ii", 7, 4) + b"wiki")


def write_gguf(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    entries = {TensorEntry(name, "F32", values.shape): values.astype(np.float32) for name, values in tensors.items()}
    metadata = {"imatrix.datasets": array(Kind.STRING, ["wiki"]), "imatrix.chunk_count": scalar(Kind.UINT32, 7)}
    with path.open("wb") as file:
        writer = GgufWriter(file, metadata=metadata, tensors=list(entries))
        writer.write_head()
        for values in entries.values():
            writer.write_rows(np.ascontiguousarray(values).view(np.uint8).reshape(1, -1))
        writer.finish()
    return path


def test_legacy_files(tmp_path: Path) -> None:
    """Values are divided by the number of calls; data set and chunks are known."""
    (tmp_path / "i.dat").write_bytes(SOUND)

    importance = read_importance(tmp_path / "i.dat")

    assert {name: values.tolist() for name, values in importance.values.items()} == {
        "a.weight": [1.0, 2.0, 3.0],
        "b.weight": [1.0],
    }
    assert (importance.dataset, importance.chunks) == ("wiki", 7)


def test_gguf_files(tmp_path: Path) -> None:
    """Sums are divided by the count of their matrix; a matrix that was never reached counts every column the same."""
    path = write_gguf(
        tmp_path / "i.gguf",
        {"e.weight.in_sum2": np.array([[4.0, 8.0], [5.0, 5.0]]), "e.weight.counts": np.array([[4.0], [0.0]])},
    )

    importance = read_importance(path)

    assert (importance.dataset, importance.chunks) == ("wiki", 7)
    weights = importance.of_tensor("e.weight", (2, 16, 2))
    assert weights is not None
    assert weights.tolist() == [[1.0, 2.0], [1.0, 1.0]]
    assert importance.of_tensor("other.weight", (2, 2)) is None
    with pytest.raises(ModelError, match=r"'e\.weight' has 4 numbers.*needs 2"):
        importance.of_tensor("e.weight", (16, 2))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "ends inside"),
        (struct.pack("<i", 0), "number of entries is 0"),
        (SOUND[:-20], "ends inside"),
        (legacy({"a": (1, [float("nan")])}), "infinite"),
        (legacy({"a": (1, [-1.0])}), "negative"),
        (struct.pack("<ii", 1, 1 << 20), "1048576 bytes"),
        (struct.pack("<ii", 1, 2) + b"\xff\xfe" + bytes(12), "UTF-8"),
    ],
)
def test_damage_is_said(tmp_path: Path, raw: bytes, message: str) -> None:
    """Every message names the file."""
    (tmp_path / "i.dat").write_bytes(raw)

    with pytest.raises(ModelError, match=message) as refused:
        read_importance(tmp_path / "i.dat")
    assert "i.dat" in str(refused.value)


@given(cut=st.integers(0, len(SOUND)), noise=st.binary(max_size=8), at=st.integers(0, len(SOUND)))
def test_any_damage_is_a_model_error(tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes, at: int) -> None:
    """Cut or overwritten files are read or refused, and nothing else."""
    path = tmp_path_factory.mktemp("i") / "i.dat"
    raw = SOUND[:at] + noise + SOUND[at + len(noise) :]
    path.write_bytes(raw[:cut])

    try:
        importance = read_importance(path)
    except ModelError:
        return
    assert importance.values


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.in_sum2": np.ones((1, 4))}, "counts"),
        ({"a.in_sum2": np.ones((1, 4)), "a.counts": np.ones((3, 1))}, "3 counts"),
        ({"a": np.ones((1, 4))}, "not an importance matrix"),
    ],
)
def test_gguf_files_of_another_kind(tmp_path: Path, tensors: dict[str, np.ndarray], message: str) -> None:
    """A model, or half an entry, is no importance matrix."""
    path = write_gguf(tmp_path / "i.gguf", tensors)

    with pytest.raises(ModelError, match=message):
        read_importance(path)
