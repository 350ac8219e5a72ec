"""Importance matrices: how much each input column of a matrix matters, measured by llama.cpp's `llama-imatrix`.

Legacy files, little-endian (tools/imatrix in llama.cpp):

    i32 entries | entry… | i32 chunks | i32 length, data set        the last two may be missing
    entry:  i32 length, name | i32 calls | i32 values | f32 value…   importance = value / calls

GGUF files hold two tensors an entry, `NAME.in_sum2` [matrices, columns] and `NAME.counts` [matrices, 1];
importance = sum / count, and 1 for a matrix (an expert) that was never reached.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from backends.errors import ModelError
from backends.weights.files import open_regular
from backends.weights.gguf import Metadata, read_gguf
from backends.weights.tensor import StoredTensor, decode

F32 = npt.NDArray[np.float32]

_MAX_BYTES = 1 << 30
_MAX_NAME_BYTES = 1 << 10
_SUMS, _COUNTS = ".in_sum2", ".counts"
_I32 = struct.Struct("<i")


class Importance(msgspec.Struct, frozen=True, kw_only=True):
    """`values`: GGUF tensor name → float32, one number a column, matrix after matrix."""

    path: Path
    values: Mapping[str, F32]
    dataset: str = ""
    chunks: int = 0

    def of_tensor(self, name: str, shape: tuple[int, ...]) -> F32 | None:
        """float32 `[matrices, columns]` of a stored tensor; `None` without an entry.

        Raises `ModelError` if the entry was measured on a tensor of another shape.
        """
        values = self.values.get(name)
        if values is None:
            return None
        num_matrices = shape[0] if len(shape) > 2 else 1
        if len(values) != num_matrices * shape[-1]:
            raise ModelError(
                f"{self.path}: the importance of {name!r} has {len(values)} numbers; the tensor of shape "
                f"{list(shape)} needs {num_matrices * shape[-1]}: it was measured on another model"
            )
        return values.reshape(num_matrices, shape[-1])


def read_importance(path: Path) -> Importance:
    """Read either kind of file. Raises `ModelError` for damage, and for numbers that are negative or not finite."""
    with open_regular(path) as file:
        is_gguf = file.read(4) == b"GGUF"
    importance = _from_gguf(path) if is_gguf else _from_legacy(path)
    for name, values in importance.values.items():
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ModelError(f"{path}: the importance of {name!r} holds negative or infinite numbers")
    return importance


def _from_gguf(path: Path) -> Importance:
    file = read_gguf(path)
    names = [name.removesuffix(_SUMS) for name in file.tensors if name.endswith(_SUMS)]
    if not names:
        raise ModelError(f"{path}: no tensor {_SUMS}: not an importance matrix of llama-imatrix")
    datasets = file.metadata.get("imatrix.datasets", ())
    return Importance(
        path=path,
        values={name: _mean_by_matrix(path, name, file.tensors) for name in names},
        dataset=str(datasets[0]) if isinstance(datasets, tuple) and datasets else "",
        chunks=_count(file.metadata, "imatrix.chunk_count"),
    )


def _mean_by_matrix(path: Path, name: str, tensors: Mapping[str, StoredTensor]) -> F32:
    counts = tensors.get(name + _COUNTS)
    if counts is None:
        raise ModelError(f"{path}: {name + _COUNTS!r} is missing beside {name + _SUMS!r}")
    count, total = decode(counts).reshape(-1, 1), decode(tensors[name + _SUMS])
    if total.size % count.size:
        raise ModelError(f"{path}: {name!r} has {total.size} sums for {count.size} counts")
    total = total.reshape(count.size, -1)
    reached = count > 0
    mean: F32 = np.where(reached, total / np.where(reached, count, np.float32(1)), np.float32(1))
    return mean.reshape(-1)


def _count(metadata: Metadata, key: str) -> int:
    value = metadata.get(key, 0)
    return value if isinstance(value, int) else 0


def _from_legacy(path: Path) -> Importance:
    with open_regular(path) as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ModelError(f"{path}: larger than {_MAX_BYTES} bytes")
    reader = _LegacyReader(raw, path)
    num_entries = reader.integer("number of entries", low=1)
    values = dict(reader.entry() for _ in range(num_entries))
    if reader.is_at_end:
        return Importance(path=path, values=values)
    chunks = reader.integer("number of chunks", low=0)
    # ty does not see that reading has moved the position
    dataset = "" if reader.is_at_end else reader.text("name of the data set", low=0)  # ty: ignore[redundant-condition-strict]  # see above
    return Importance(path=path, values=values, dataset=dataset, chunks=chunks)


class _LegacyReader:
    """A position in untrusted bytes."""

    def __init__(self, raw: bytes, path: Path) -> None:
        self._raw = raw
        self._path = path
        self._position = 0

    @property
    def is_at_end(self) -> bool:
        return self._position == len(self._raw)

    def entry(self) -> tuple[str, F32]:
        name = self.text("name of an entry", low=1)
        calls = self.integer(f"calls of {name!r}", low=0)
        count = self.integer(f"length of {name!r}", low=1)
        values = np.frombuffer(self._take(4 * count, f"values of {name!r}"), "<f4").astype(np.float32)
        return name, values / np.float32(calls or 1)

    def integer(self, what: str, *, low: int) -> int:
        (value,) = _I32.unpack(self._take(4, what))
        if value < low:
            raise self._damaged(f"{what} is {value}")
        return int(value)

    def text(self, what: str, *, low: int) -> str:
        length = self.integer(f"length of the {what}", low=low)
        if length > _MAX_NAME_BYTES:
            raise self._damaged(f"the {what} has {length} bytes")
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged(f"the {what} is not UTF-8") from None

    def _take(self, num_bytes: int, what: str) -> bytes:
        taken = self._raw[self._position : self._position + num_bytes]
        if len(taken) < num_bytes:
            raise self._damaged(f"it ends inside the {what}")
        self._position += num_bytes
        return taken

    def _damaged(self, reason: str) -> ModelError:
        return ModelError(f"{self._path}: not an importance matrix of llama-imatrix, or damaged: {reason}")
