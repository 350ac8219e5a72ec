"""Damaged and hostile GGUF files: always a `ModelError`, soon, and without large allocations."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import ModelError
from backends.weights.gguf import read_gguf, read_metadata
from tests.backends.weights.gguf_bytes import File, Tensor, array, pair, text
from tests.costs import cost_ratio

HUGE = 2**60

BAD_METADATA: dict[str, tuple[File, str]] = {
    "wrong magic": (File(magic=b"GGML"), "not a GGUF file"),
    "pickled": (File(magic=b"\x80\x02cp"), "not a GGUF file"),
    "2^60 pairs": (File(num_pairs=HUGE), f"announces {HUGE} metadata pairs"),
    "2^64-1 pairs": (File(num_pairs=2**64 - 1), "metadata pairs"),
    "more pairs than there are": (File(num_pairs=2, tensors=(), data_bytes=30), "byte"),
    "key of 2^60 bytes": (File(pairs=(struct.pack("<Q", HUGE) + bytes(16),)), f"metadata key has {HUGE} bytes"),
    "empty key": (File(pairs=(pair("", 4, bytes(4)),)), "empty or appears twice"),
    "duplicate key": (File(pairs=(pair("k", 4, bytes(4)),) * 2), "appears twice"),
    "key not utf-8": (File(pairs=(text(b"\xff\xfe") + bytes(8),)), "not UTF-8"),
    "value not utf-8": (File(pairs=(pair("k", 8, text(b"\xc3")),)), "'k' is not UTF-8"),
    "string of 2^60 bytes": (File(pairs=(pair("k", 8, struct.pack("<Q", HUGE)),)), f"'k' has {HUGE} bytes"),
    "string beyond the end": (File(pairs=(pair("k", 8, struct.pack("<Q", 5000)),)), "'k' needs 5000 bytes"),
    "unknown value type": (File(pairs=(pair("k", 13, bytes(8)),)), "value type 13"),
    "boolean 2": (File(pairs=(pair("k", 7, b"\2"),)), "neither 0 nor 1"),
    "array of arrays": (File(pairs=(pair("k", 9, array(9, 1, array(4, 0))),)), "array of arrays"),
    "nested 10^5 deep": (File(pairs=(pair("k", 9, array(9, 1) * 100_000),)), "array of arrays"),
    "array of unknown type": (File(pairs=(pair("k", 9, array(200, 1, bytes(8))),)), "value type 200"),
    "array of 2^60 bytes": (File(pairs=(pair("k", 9, array(0, HUGE)),)), f"'k' has {HUGE} items"),
    "array of 2^61 u64": (File(pairs=(pair("k", 9, array(10, 2**61)),)), "items"),
    "array beyond the end": (File(pairs=(pair("k", 9, array(10, 5000)),)), "needs 40000 bytes"),
    "strings beyond the end": (File(pairs=(pair("k", 9, array(8, 5000)),)), "needs 40000 bytes"),
    "boolean array with 7": (File(pairs=(pair("k", 9, array(7, 2, b"\1\7")),)), "neither 0 nor 1"),
}

BAD_TENSORS: dict[str, tuple[File, str]] = {
    "2^60 tensors": (File(num_tensors=HUGE), f"announces {HUGE} tensors"),
    "no dimensions": (File(tensors=(Tensor(dims=()),)), "0 dimensions"),
    "five dimensions": (File(tensors=(Tensor(dims=(1, 1, 1, 1, 16)),)), "5 dimensions"),
    "2^32-1 dimensions": (File(tensors=(Tensor(num_dims=2**32 - 1),)), "4294967295 dimensions"),
    "dimension 0": (File(tensors=(Tensor(dims=(0, 4)),)), "must be positive"),
    "dimension 2^63": (File(tensors=(Tensor(dims=(2**63, 2)),)), "needs"),
    "product wraps at 2^64": (File(tensors=(Tensor(dims=(2**32, 2**32)),)), "needs"),
    "product wraps to 16": (File(tensors=(Tensor(dims=(2**62 + 4, 4)),)), "needs"),
    "size just beyond the file": (File(tensors=(Tensor(dims=(17,)),)), "truncated or damaged"),
    "offset beyond the file": (File(tensors=(Tensor(offset=1 << 40),)), "truncated or damaged"),
    "offset 2^63": (File(tensors=(Tensor(offset=2**63),)), "truncated or damaged"),
    "offset plus size wraps": (File(tensors=(Tensor(offset=2**64 - 32),)), "truncated or damaged"),
    "unaligned offset": (File(tensors=(Tensor(dims=(4,), offset=8),)), "multiple of 32"),
    "overlap": (File(tensors=(Tensor(name="a"), Tensor(name="b", dims=(4,), offset=32))), "overlaps tensor 'a'"),
    "same name twice": (File(tensors=(Tensor(), Tensor(offset=64)), data_bytes=128), "appears twice"),
    "partial block": (File(tensors=(Tensor(dims=(33, 1), ggml_type=8),)), "multiple of 32"),
    "name of 2^60 bytes": (File(tensors=(Tensor(name="n" * 65),)), "tensor name has 65 bytes"),
    "name not utf-8": (File(tensors=(Tensor(name=b"\xff"),)), "not UTF-8"),
    "alignment 0": (File(pairs=(pair("general.alignment", 4, bytes(4)),)), "power of two"),
    "alignment 24": (File(pairs=(pair("general.alignment", 4, struct.pack("<I", 24)),)), "power of two"),
    "alignment 2^63": (File(pairs=(pair("general.alignment", 10, struct.pack("<Q", 2**63)),)), "power of two"),
    "alignment true": (File(pairs=(pair("general.alignment", 7, b"\1"),)), "power of two"),
    "alignment text": (File(pairs=(pair("general.alignment", 8, text("32")),)), "power of two"),
    "data missing": (File(data_bytes=0), "needs|truncated"),
}


@pytest.mark.parametrize(("file", "message"), BAD_METADATA.values(), ids=BAD_METADATA.keys())
def test_bad_metadata_is_refused_at_once(tmp_path: Path, file: File, message: str) -> None:
    """Counts and lengths beyond the file cost neither time nor memory, with or without tensors.

    No memory is below one megabyte; no time, below ten times what a sound file of this size costs.
    """
    path = file.write(tmp_path / "bad.gguf")
    sound = sound_file(tmp_path / "sound.gguf", size=path.stat().st_size)

    def refuse() -> None:
        with pytest.raises(ModelError, match=message) as caught:
            read_metadata(path)
        with pytest.raises(ModelError, match=message):
            read_gguf(path)
        assert str(path) in str(caught.value)

    tracemalloc.start()
    refuse()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 1 << 20
    assert cost_ratio(refuse, lambda: (read_metadata(sound), read_gguf(sound))) < 10


def sound_file(path: Path, *, size: int) -> Path:
    """The default file, filled up with one array of bytes."""
    filled = pair("filling", 9, array(0, size, bytes(size)))
    return File(pairs=(*File().pairs, filled)).write(path)


@pytest.mark.parametrize(("file", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_bad_tensor_tables_are_refused_at_once(tmp_path: Path, file: File, message: str) -> None:
    """No view is made of bytes outside the file, however the sizes overflow; ten sound files cost more."""
    path, sound = file.write(tmp_path / "bad.gguf"), File().write(tmp_path / "sound.gguf")

    def refuse() -> None:
        with pytest.raises(ModelError, match=message) as caught:
            read_gguf(path)
        assert str(path) in str(caught.value)

    refuse()

    assert cost_ratio(refuse, lambda: read_gguf(sound)) < 10


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """A download that stopped anywhere never gives a model."""
    tensors = (Tensor(name="a"), Tensor(name="b", dims=(8,), offset=64))
    whole = File(tensors=tensors, data_bytes=96).to_bytes()
    path = tmp_path / "part.gguf"

    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            read_gguf(path)


@pytest.mark.parametrize("content", [b"", b"G", b"GGUF", bytes(4096), random.Random(0).randbytes(4096)])
def test_files_that_are_no_gguf_are_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, short, blank and random files are damage, not crashes."""
    path = tmp_path / "m.gguf"
    path.write_bytes(content)

    with pytest.raises(ModelError):
        read_gguf(path)


RICH = File(
    pairs=(
        pair("general.architecture", 8, text("llama")),
        pair("general.alignment", 4, struct.pack("<I", 32)),
        pair("tokens", 9, array(8, 3, text("a") + text("bc") + text("漢"))),
        pair("scores", 9, array(6, 3, struct.pack("<3f", 1, 2, 3))),
        pair("flag", 7, b"\1"),
        pair("count", 10, struct.pack("<Q", 7)),
    ),
    tensors=(
        Tensor(name="a"),
        Tensor(name="b", dims=(32, 2), ggml_type=8, offset=64),
        Tensor(name="c", dims=(8,), ggml_type=1, offset=160),
    ),
    data_bytes=192,
).to_bytes()


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_never_escape_the_error_tree(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    """Reading succeeds or raises `ModelError`, whatever bytes change; views never leave the file."""
    raw = bytearray(RICH)
    for position, value in flips:
        raw[position] = value
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)

    try:
        tensors = read_gguf(path).tensors
    except ModelError:
        return

    for tensor in tensors.values():
        assert np.array(tensor.data).nbytes <= len(raw)  # the copy touches every byte


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, len(RICH) - 8), value=st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1]))
def test_huge_words_never_escape_the_error_tree(tmp_path: Path, position: int, value: int) -> None:
    """A 64-bit word of extreme size anywhere is harmless."""
    raw = bytearray(RICH)
    struct.pack_into("<Q", raw, position, value)
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)

    try:
        tensors = read_gguf(path).tensors
    except ModelError:
        return

    assert all(tensor.data.nbytes <= len(raw) for tensor in tensors.values())
