"""Keys and values of all slots and layers, in plain arrays that the graph reads and writes in place."""

from __future__ import annotations

import numpy as np

from backends.api import F32
from backends.models.spec import ModelSpec


class Pool:
    """`keys[layer]` and `values[layer]`, each float32 `[slots, kv_heads, slot_tokens, head_dim]`.

    Zeroed lazily by the system: memory is taken only where tokens are written.
    """

    def __init__(self, spec: ModelSpec, *, num_slots: int, slot_tokens: int) -> None:
        shape = (num_slots, spec.num_kv_heads, slot_tokens, spec.head_dim)
        self.num_slots, self.slot_tokens = num_slots, slot_tokens
        self.keys: list[F32] = [np.zeros(shape, np.float32) for _ in range(spec.num_layers)]
        self.values: list[F32] = [np.zeros(shape, np.float32) for _ in range(spec.num_layers)]

    def copy(self, source: int, destination: int) -> None:
        for array in (*self.keys, *self.values):
            array[destination] = array[source]
