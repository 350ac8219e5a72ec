"""What a storage format is: its block, and how blocks become numbers and back."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from backends.errors import ModelError

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

_CHUNK_ELEMENTS = 1 << 17
"""Elements converted at a time, so that the temporaries stay in cache whatever the size of the tensor."""


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """A storage format. Rows are whole blocks of `block_size` elements in `block_bytes` bytes.

    `decode_blocks`: uint8 `[blocks, block_bytes]` → float32 `[blocks, block_size]`; `encode_blocks` the reverse,
    `None` where there is no encoder. Call `decode` and `encode`, which check and work on whole rows.
    """

    name: str
    ggml_type: int
    """Number of the format in GGUF files (`enum ggml_type` in ggml.h)."""
    block_size: int
    block_bytes: int
    decode_blocks: Callable[[U8], F32]
    encode_blocks: Callable[[F32], U8] | None = None

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

    def encode(self, values: F32) -> U8:
        """float32 `[rows, columns]` → uint8 `[rows, bytes]`, rounded as the reference implementation does.

        Raises `ModelError` without an encoder, for a partial block, and for values beyond the format's range.
        """
        if self.encode_blocks is None:
            raise ModelError(f"format {self.name} cannot be encoded, only read")
        if not np.isfinite(values).all():
            raise ModelError(f"cannot encode to {self.name}: the values are not all finite")
        rows, columns = values.shape
        row_bytes = self.bytes_per_row(columns)
        blocks = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, self.block_size)
        data = np.empty((len(blocks), self.block_bytes), np.uint8)
        try:
            with np.errstate(over="raise"):
                for part in self._chunks(len(blocks)):
                    data[part] = self.encode_blocks(blocks[part])
        except FloatingPointError as error:
            raise ModelError(f"cannot encode to {self.name}: a value exceeds the format's range") from error
        return data.reshape(rows, row_bytes)

    def _chunks(self, num_blocks: int) -> list[slice]:
        step = max(1, _CHUNK_ELEMENTS // self.block_size)
        return [slice(start, start + step) for start in range(0, num_blocks, step)]
