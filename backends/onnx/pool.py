"""Keys and values of all slots and layers, in plain arrays that the graph reads and writes in place."""

from __future__ import annotations

import math
import mmap

import numpy as np

from backends.api import F32
from backends.models.spec import ModelSpec


class Pool:
    """`keys[layer]` and `values[layer]`, each float32 `[slots, kv_heads, slot_tokens, head_dim]`, zero at first.

    Mapped from the system rather than taken from the heap: memory is used only where tokens are written, and all of
    it goes back with the pool. Raises `MemoryError` if the system refuses.
    """

    def __init__(self, spec: ModelSpec, *, num_slots: int, slot_tokens: int) -> None:
        shape = (num_slots, spec.num_kv_heads, slot_tokens, spec.head_dim)
        self.num_slots, self.slot_tokens = num_slots, slot_tokens
        self.keys = [_mapped(shape) for _ in range(spec.num_layers)]
        self.values = [_mapped(shape) for _ in range(spec.num_layers)]

    def copy(self, source: int, destination: int, num_tokens: int | None = None) -> None:
        for array in (*self.keys, *self.values):
            array[destination, :, :num_tokens] = array[source, :, :num_tokens]


def _mapped(shape: tuple[int, ...]) -> F32:
    num_bytes = 4 * math.prod(shape)
    try:
        memory = mmap.mmap(-1, num_bytes)
    except OSError as error:
        raise MemoryError(f"{num_bytes / 1e6:.0f} MB for the keys or values of a layer: {error}") from error
    return np.frombuffer(memory, np.float32).reshape(shape)
