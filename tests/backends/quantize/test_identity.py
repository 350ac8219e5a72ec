"""Names of quantized copies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.errors import ModelError
from backends.quantize import UnknownFormat, quantized_name


def test_the_name_follows_source_and_format(tmp_path: Path) -> None:
    """The same question gives the same name; another format, importance or state of the source another one."""
    source, other = tmp_path / "model.gguf", tmp_path / "i.dat"
    source.write_bytes(b"a")
    other.write_bytes(b"i")

    first = quantized_name(source, format="q4_k_m")
    names = [
        quantized_name(source, format="Q4_K_S"),
        quantized_name(source, format="Q4_K_M", pure=True),
        quantized_name(source, format="Q4_K_M", importance=other),
    ]
    os.utime(source, ns=(1, 1))
    names.append(quantized_name(source, format="Q4_K_M"))

    assert first.startswith("model-Q4_K_M-")
    assert len({first, *names}) == 5
    assert names[-1] == quantized_name(source, format="Q4_K_M")


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    """A shard more makes another name."""
    (tmp_path / "a.safetensors").write_bytes(b"a")
    first = quantized_name(tmp_path, format="Q8_0")

    (tmp_path / "b.safetensors").write_bytes(b"b")

    assert quantized_name(tmp_path, format="Q8_0") != first


def test_what_cannot_be_named(tmp_path: Path) -> None:
    """A source that is not there, a format that does not exist."""
    with pytest.raises(ModelError, match="cannot be read"):
        quantized_name(tmp_path / "none.gguf", format="Q8_0")
    with pytest.raises(UnknownFormat):
        quantized_name(tmp_path, format="Q9")
