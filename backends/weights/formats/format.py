"""Storage formats: their blocks, and the conversion of blocks to numbers and back."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from backends.errors import ModelError

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

_CHUNK_ELEMENTS = 1 << 16
"""Elements converted at a time, so that the temporaries stay in cache whatever the size of the tensor."""


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """A storage format. Rows are whole blocks of `block_size` elements in `block_bytes` bytes.

    `decode_blocks`: uint8 `[blocks, block_bytes]` → float32 `[blocks, block_size]`; `encode_blocks` the reverse,
    `encode_weighted` the same for whole rows `[rows, columns]` with the importance `[columns]` of each column, `None`
    where an importance changes nothing. Call `decode` and `encode`, which check and work on whole rows.
    """

    name: str
    ggml_type: int
    """Number of the format in GGUF files (`enum ggml_type` in ggml.h)."""
    block_size: int
    block_bytes: int
    decode_blocks: Callable[[U8], F32]
    encode_blocks: Callable[[F32], U8]
    encode_weighted: Callable[[F32, F32], U8] | None = None
    wider: Format | None = None
    """Another layout that files have under the same number, distinguished by the size of a tensor."""

    def bytes_per_row(self, columns: int) -> int:
        """Bytes of a row of `columns` elements. Raises `ModelError` if that is not a whole number of blocks."""
        if columns % self.block_size:
            raise ModelError(
                f"rows of {columns} elements cannot be stored as {self.name}: "
                f"a multiple of {self.block_size} is expected"
            )
        return columns // self.block_size * self.block_bytes

    def decode(self, data: U8) -> F32:
        """uint8 `[rows, bytes]` → float32 `[rows, columns]`, the exact values that the blocks stand for."""
        rows, row_bytes = data.shape
        if row_bytes % self.block_bytes:
            raise ModelError(f"{row_bytes} bytes are not a whole number of {self.name} blocks of {self.block_bytes}")
        blocks = np.ascontiguousarray(data).reshape(-1, self.block_bytes)
        values = np.empty((len(blocks), self.block_size), np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale may be infinite; it decodes to NaN
            for part in self._chunks(len(blocks)):
                values[part] = self.decode_blocks(blocks[part])
        return values.reshape(rows, row_bytes // self.block_bytes * self.block_size)

    def encode(self, values: F32, importance: F32 | None = None) -> U8:
        """float32 `[rows, columns]` → uint8 `[rows, bytes]`, the bytes of the reference implementation.

        `importance` (float32 `[columns]`, not negative) weighs the error of each column, as an importance matrix of
        llama.cpp does; formats that only round ignore it. Raises `ModelError` for a partial block, for values beyond
        the format's range, and for an importance that does not fit.
        """
        if not np.isfinite(values).all():
            raise ModelError(f"cannot encode to {self.name}: the values are not all finite")
        row_bytes = self.bytes_per_row(values.shape[1])
        rows = np.ascontiguousarray(values, dtype=np.float32)
        try:
            with np.errstate(over="raise"):
                data = self._encode_rows(rows, None if importance is None else _checked(importance, values))
        except FloatingPointError as error:
            raise ModelError(f"cannot encode to {self.name}: a value exceeds the format's range") from error
        return data.reshape(len(values), row_bytes)

    def _encode_rows(self, rows: F32, importance: F32 | None) -> U8:
        data = np.empty((rows.size // self.block_size, self.block_bytes), np.uint8)
        if importance is None or self.encode_weighted is None:
            blocks = rows.reshape(-1, self.block_size)
            for part in self._chunks(len(blocks)):
                data[part] = self.encode_blocks(blocks[part])
            return data
        of_rows = data.reshape(len(rows), -1, self.block_bytes)
        step = max(1, _CHUNK_ELEMENTS // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            encoded = self.encode_weighted(rows[part], importance)
            of_rows[part] = encoded.reshape(of_rows[part].shape)
        return data

    def _chunks(self, num_blocks: int) -> list[slice]:
        step = max(1, _CHUNK_ELEMENTS // self.block_size)
        return [slice(start, start + step) for start in range(0, num_blocks, step)]


def _checked(importance: F32, values: F32) -> F32:
    if importance.shape != values.shape[1:]:
        raise ModelError(
            f"the importance has shape {importance.shape}; expected one number for each of {values.shape[1]} columns"
        )
    if not (np.isfinite(importance).all() and (importance >= 0).all()):
        raise ModelError("the importance must be finite and not negative")
    return importance.astype(np.float32)
