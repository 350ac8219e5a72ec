"""Keys and values of all slots and layers, one flat array each. A slot is a run of neighbouring rows."""

from __future__ import annotations

import mlx.core as mx

from backends.api import KVPlan
from backends.models.spec import ModelSpec


class Pool:
    """Per layer, keys and values float32 `[slots * slot_tokens, kv_heads, head_dim]`, zero at first.

    MLX arrays are values: a write makes a new array. Nobody else holds the old one, so MLX reuses its memory and the
    write is in place. Whoever keeps a reference to an array makes the next write a copy of all of it.
    """

    def __init__(self, spec: ModelSpec, plan: KVPlan) -> None:
        self.slot_tokens = plan.block_tokens
        shape = (plan.num_blocks * plan.block_tokens, spec.num_kv_heads, spec.head_dim)
        self._keys = [mx.zeros(shape) for _ in range(spec.num_layers)]
        self._values = [mx.zeros(shape) for _ in range(spec.num_layers)]
        mx.eval(self.arrays)

    @property
    def arrays(self) -> list[mx.array]:
        return [*self._keys, *self._values]

    def write(self, layer: int, places: mx.array, keys: mx.array, values: mx.array) -> None:
        """`[T, kv_heads, head_dim]` each, to the rows `places[T]`."""
        self._keys[layer][places] = keys
        self._values[layer][places] = values

    def read(self, layer: int, rows: slice) -> tuple[mx.array, mx.array]:
        """Views `[rows, kv_heads, head_dim]`."""
        return self._keys[layer][rows], self._values[layer][rows]

    def copy(self, source: int, destination: int, num_tokens: int | None = None) -> None:
        rows = self.slot_tokens if num_tokens is None else num_tokens
        to, start = destination * self.slot_tokens, source * self.slot_tokens
        for arrays in (self._keys, self._values):
            for array in arrays:
                array[to : to + rows] = array[start : start + rows]
        mx.eval(self.arrays)
