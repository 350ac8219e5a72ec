"""Source of a quantization: tensors under their GGUF names, and the metadata; a GGUF file as the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from backends.loading.open import open_gguf
from backends.models.spec import ModelSpec
from backends.weights.files import map_file
from backends.weights.gguf import narrowed, read_gguf
from backends.weights.gguf.cursor import Cursor
from backends.weights.gguf.metadata import HEADER_BYTES, read_header, read_pairs
from backends.weights.gguf.tensors import read_alignment
from backends.weights.gguf.writer import EncodedValue
from backends.weights.tensor import StoredTensor

Order = npt.NDArray[np.intp]


class TensorPart(msgspec.Struct, frozen=True):
    """Rows of a stored tensor, in the order given or as they lie."""

    tensor: StoredTensor
    order: Order | None = None

    @property
    def num_rows(self) -> int:
        return len(self.tensor.data)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """uint8 `[stop - start, bytes_per_row]`, a view where the order allows."""
        if self.order is None:
            return self.tensor.data[start:stop]
        rows: npt.NDArray[np.uint8] = self.tensor.data[self.order[start:stop]]
        return rows


class SourceTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of the file to write; its parts lie one below the other. A vector is one row."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[TensorPart, ...]
    kept_format: str
    """Format of the tensor where none is chosen for it."""

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats it is stored in, each once."""
        return tuple(dict.fromkeys(part.tensor.format for part in self.parts))

    @property
    def num_bytes(self) -> int:
        return sum(part.tensor.data.nbytes for part in self.parts)

    @property
    def rows_per_matrix(self) -> int:
        """Rows that share a row of an importance matrix: those of one expert, or all."""
        return self.shape[-2] if len(self.shape) > 1 else 1

    def chunks(self, max_rows: int) -> Iterator[tuple[int, TensorPart, int, int]]:
        """(matrix number, part, first row, end row) of pieces of at most `max_rows` that lie in one matrix."""
        above = 0
        for part in self.parts:
            start = 0
            while start < part.num_rows:
                matrix, inside = divmod(above + start, self.rows_per_matrix)
                stop = min(start + max_rows, part.num_rows, start + self.rows_per_matrix - inside)
                yield matrix, part, start, stop
                start = stop
            above += part.num_rows


class QuantizeSource(msgspec.Struct, frozen=True, kw_only=True):
    """An opened source. `faults` are what the file to be written cannot express; `notes` are worth knowing."""

    path: Path
    spec: ModelSpec
    metadata: Mapping[str, EncodedValue]
    tensors: tuple[SourceTensor, ...]
    alignment: int
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


_PREFIX_BYTES = 8  # of a key: its length
_DROPPED = "split."  # a file that was joined may still say how it had been split


def open_gguf_source(path: Path) -> QuantizeSource:
    """Open and check a GGUF file. Raises `ModelError` and `UnsupportedModel` like `backends.loading`."""
    model = open_gguf(path)
    file = read_gguf(path)
    tensors = tuple(
        SourceTensor(name=name, shape=tensor.shape, parts=(TensorPart(tensor),), kept_format=tensor.format)
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
