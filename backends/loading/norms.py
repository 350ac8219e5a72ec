"""Gemma's norm weights, which checkpoints store less one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backends.weights.decode import decode
from backends.weights.tensor import StoredTensor


def plus_one(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The same tensors with one added to every norm, which becomes F32."""
    return {name: _shifted(tensor) if name.endswith("norm") else tensor for name, tensor in tensors.items()}


def _shifted(tensor: StoredTensor) -> StoredTensor:
    values = (decode(tensor) + np.float32(1)).astype(np.float32)
    return StoredTensor(tensor.name, "F32", tensor.shape, values.view(np.uint8).reshape(1, -1))
