"""Keys and values of all blocks and layers. A slot is the special case of one block a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from backends.api import KVPlan
from backends.models.spec import ModelSpec

Blocks = slice | Tensor
"""Blocks of a sequence in order: a run of neighbours, or int64 numbers on the device."""


class Pool:
    """Per layer, keys and values float32 `[num_blocks, block_tokens, kv_heads, head_dim]`, zero at first.

    On the CPU the system hands out memory only where tokens are written. No sequence holds more than `max_context`.
    """

    def __init__(self, spec: ModelSpec, plan: KVPlan, *, max_context: int, device: torch.device) -> None:
        shape = (plan.num_blocks, plan.block_tokens, spec.num_kv_heads, spec.head_dim)
        self.is_paged = plan.layout == "paged"
        self.num_blocks, self.block_tokens, self.max_context = plan.num_blocks, plan.block_tokens, max_context
        self.device = device
        self.keys = [torch.zeros(shape, device=device) for _ in range(spec.num_layers)]
        self.values = [torch.zeros(shape, device=device) for _ in range(spec.num_layers)]

    def write(self, layer: int, slot_map: Tensor, keys: Tensor, values: Tensor) -> None:
        """`[T, kv_heads, head_dim]` each, to the flat indices `slot_map[T]`."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slot_map, keys)
        self.values[layer].flatten(0, 1).index_copy_(0, slot_map, values)

    def read(self, layer: int, blocks: Blocks, num_tokens: int) -> tuple[Tensor, Tensor]:
        """The first tokens of the blocks: `[num_tokens, kv_heads, head_dim]` each; neighbours are not copied."""
        keys, values = self.keys[layer][blocks], self.values[layer][blocks]
        return keys.flatten(0, 1)[:num_tokens], values.flatten(0, 1)[:num_tokens]

    def copy(self, source: int, destination: int) -> None:
        for tensor in (*self.keys, *self.values):
            tensor[destination] = tensor[source]
