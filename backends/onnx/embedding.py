"""Embedding rows, looked up outside the graph, so that a quantized table stays in its blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backends.api import F32, I64
from backends.weights.decode import decode
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor

_DECODED_BYTES = 32 * 1024 * 1024
"""Tables up to this size are decoded once: a lookup is then one gather."""


class Embedding:
    """Rows of a stored `[vocab, hidden]` table as float32."""

    def __init__(self, tensor: StoredTensor) -> None:
        self._format = FORMATS[tensor.format]
        self._data: npt.NDArray[np.uint8] = tensor.data
        small = 4 * tensor.shape[0] * tensor.shape[1] <= _DECODED_BYTES
        self._table = decode(tensor) if small else None

    def rows(self, ids: I64) -> F32:
        """float32 `[len(ids), hidden]`, contiguous."""
        if self._table is not None:
            return self._table[ids]
        return self._format.decode(self._data[ids])
