"""Embedding rows, looked up outside the graph, so that a quantized table stays in its blocks.

A table inside the graph would have to be float32: 600 MB for 150,000 tokens of width 1,024, against 90 MB as Q4_0.
Decoding a row takes microseconds, and a step has few of them.
"""

from __future__ import annotations

import numpy as np

from backends.api import I64
from backends.errors import UnsupportedModel
from backends.onnx.padding import Array
from backends.onnx.weights import FORMATS as READABLE
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor, decode

_DECODED_BYTES = 32 * 1024 * 1024
"""Tables up to this size are decoded once: a lookup is then one gather."""


class Embedding:
    """Rows of a stored `[vocab, hidden]` table as float32. Raises `UnsupportedModel` for an undeclared format."""

    def __init__(self, tensor: StoredTensor) -> None:
        if tensor.format not in READABLE:
            raise UnsupportedModel(
                f"tensor {tensor.name!r} is stored as {tensor.format}; the onnx runner reads {', '.join(READABLE)}"
            )
        self._format = FORMATS[tensor.format]
        self._data = tensor.data
        is_small = 4 * tensor.shape[0] * tensor.shape[1] <= _DECODED_BYTES
        self._table = decode(tensor) if is_small else None

    def look_up(self, ids: I64, *, out: Array) -> None:
        """Fill `out`, float32 `[len(ids), hidden]`. The ids are within the vocabulary."""
        if self._table is None:
            out[:] = self._format.decode(self._data[ids])
        else:
            np.take(self._table, ids, axis=0, out=out, mode="clip")
