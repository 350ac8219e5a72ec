"""Row order of query and key weights for rotary embeddings, changed on the stored bytes.

A head of size 6, rotary pairs (0,3) (1,4) (2,5) in half-split order:

    half-split   0 1 2 3 4 5
    interleaved  0 3 1 4 2 5

Rows are whole blocks in every format, so no value is ever decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np

from backends.weights.tensor import StoredTensor, TensorSource


def half_split_rows(tensor: StoredTensor, *, num_heads: int) -> StoredTensor:
    """A copy with the rows (elements of a bias) of every head taken from interleaved to half-split order."""
    size = tensor.shape[0]
    rows = tensor.data.reshape(size, -1)
    order = np.arange(size).reshape(num_heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return msgspec.structs.replace(tensor, data=rows[order].reshape(tensor.data.shape))


class HalfSplitSource(Mapping[str, StoredTensor]):
    """Tensors of which some are stored in interleaved order; those are reordered at each access.

    `num_heads` names them. Nothing is cached, so a model never has a second copy of its weights.
    """

    def __init__(self, tensors: TensorSource, *, num_heads: Mapping[str, int]) -> None:
        self._tensors = tensors
        self._num_heads = num_heads

    def __getitem__(self, name: str) -> StoredTensor:
        tensor = self._tensors[name]
        if name not in self._num_heads:
            return tensor
        return half_split_rows(tensor, num_heads=self._num_heads[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
