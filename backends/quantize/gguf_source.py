"""A GGUF file as the source: tensors and metadata pass as they are stored."""

from __future__ import annotations

from pathlib import Path

from backends.loading.gguf_model import open_gguf
from backends.quantize.source import Part, QuantizeSource, SourceTensor
from backends.weights.gguf import narrowed, read_gguf
from backends.weights.gguf.cursor import Cursor
from backends.weights.gguf.metadata import HEADER_BYTES, read_header, read_pairs
from backends.weights.gguf.tensors import read_alignment
from backends.weights.gguf.writer import EncodedValue
from backends.weights.mapped_file import map_file

_PREFIX_BYTES = 8  # of a key: its length
_DROPPED = "split."  # a file that was joined may still say how it had been split


def open_gguf_source(path: Path) -> QuantizeSource:
    """Open and check a GGUF file. Raises `ModelError` and `UnsupportedModel` like `backends.loading`."""
    model = open_gguf(path)
    file = read_gguf(path)
    tensors = tuple(
        SourceTensor(name=name, shape=tensor.shape, parts=(Part(tensor),), kept_format=tensor.format)
        for name, tensor in narrowed(file.tensors).items()
    )
    return QuantizeSource(
        path=path,
        spec=model.spec,
        metadata=read_encoded_pairs(path),
        tensors=tensors,
        alignment=read_alignment(path, file.metadata),
    )


def read_encoded_pairs(path: Path) -> dict[str, EncodedValue]:
    """The metadata pairs as they stand in the file, so that no type is changed on the way."""
    with map_file(path, min_bytes=HEADER_BYTES) as data:
        cursor = Cursor(data, path)
        _, num_pairs = read_header(cursor)
        pairs: dict[str, EncodedValue] = {}
        for _ in range(num_pairs):
            start = cursor.position
            (key,) = read_pairs(cursor, 1)
            value_start = start + _PREFIX_BYTES + len(key.encode("utf-8"))
            pairs[key] = EncodedValue(data[value_start : cursor.position])
    return {key: value for key, value in pairs.items() if not key.startswith(_DROPPED)}
