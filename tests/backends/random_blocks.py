"""Random tensors in every stored form."""

from __future__ import annotations

import numpy as np

from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor

_HALVES_AT = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,), "Q8_1": (0,)}
"""Positions of float16 scales in a block, if not in its first four bytes."""


def random_tensor(name: str, *, rows: int = 48, columns: int = 512, seed: int = 0) -> StoredTensor:
    """Random bytes are valid blocks; only the scales are tamed, so that no value is infinite or huge."""
    rng, form = np.random.default_rng(seed), FORMATS[name]
    if form.block_size == 1:
        values = rng.standard_normal((rows, columns), dtype=np.float32)
        return StoredTensor("w", name, (rows, columns), form.encode(values))
    data = rng.integers(0, 256, (rows, form.bytes_per_row(columns)), dtype=np.uint8)
    blocks = data.reshape(-1, form.block_bytes)
    if name == "Q8_K":
        blocks[:, :4] = (rng.standard_normal((len(blocks), 1)) * 0.01).astype("<f4").view(np.uint8)
        return StoredTensor("w", name, (rows, columns), data)
    for at in _HALVES_AT.get(name, (0, 2)):
        blocks[:, at : at + 2] = (rng.standard_normal((len(blocks), 1)) * 0.01).astype("<f2").view(np.uint8)
    return StoredTensor("w", name, (rows, columns), data)
