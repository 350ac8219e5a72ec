"""Keys and values of all blocks and layers. A slot is the special case of one block a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from backends.api import KVPlan
from backends.models.spec import ModelSpec

KVBlockViews = slice | Tensor
"""Blocks of a sequence in order: a contiguous run, or int64 numbers on the device."""


class TorchKVPool:
    """Keys and values per layer, float32 `[num_blocks, block_tokens, kv_heads, head_dim]`, zero at first.

    In a slot, the tokens of one head are contiguous, which attention reads up to a third faster on the CPU. With
    blocks, all heads of a token are, so that adjacent blocks are read without a copy. On the CPU the system allocates
    memory only where tokens are written.
    """

    def __init__(self, spec: ModelSpec, plan: KVPlan, *, device: torch.device) -> None:
        self.is_paged = plan.layout == "paged"
        self.block_tokens = plan.block_tokens
        self.device = device
        self._sizes = (plan.num_blocks, plan.block_tokens, spec.num_kv_heads, spec.head_dim)
        self.keys = [self._zeros() for _ in range(spec.num_layers)]
        self.values = [self._zeros() for _ in range(spec.num_layers)]

    def write(self, layer: int, places: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> None:
        """Write `[T, kv_heads, head_dim]` each to `places`: block and position in the block of each token."""
        self.keys[layer].index_put_(places, keys)
        self.values[layer].index_put_(places, values)

    def read(self, layer: int, blocks: KVBlockViews, tokens: slice) -> tuple[Tensor, Tensor]:
        """Read `tokens` of those in the blocks: `[1, kv_heads, tokens, head_dim]` each; contiguous blocks as views."""
        return self._read(self.keys[layer], blocks, tokens), self._read(self.values[layer], blocks, tokens)

    def copy(self, source: int, destination: int, num_tokens: int | None = None) -> None:
        for tensor in (*self.keys, *self.values):
            tensor[destination, :num_tokens] = tensor[source, :num_tokens]

    def _zeros(self) -> Tensor:
        num_blocks, block_tokens, kv_heads, head_dim = self._sizes
        if self.is_paged:
            return torch.zeros(self._sizes, device=self.device)
        return torch.zeros(num_blocks, kv_heads, block_tokens, head_dim, device=self.device).transpose(1, 2)

    def _read(self, tensor: Tensor, blocks: KVBlockViews, tokens: slice) -> Tensor:
        if isinstance(blocks, Tensor):
            return tensor[blocks].flatten(0, 1)[tokens].transpose(0, 1).unsqueeze(0)
        # The same in one call instead of five; there are two of them for each sequence and layer.
        block, token, head, _ = tensor.stride()
        _, _, kv_heads, head_dim = self._sizes
        size = (1, kv_heads, tokens.stop - tokens.start, head_dim)
        return tensor.as_strided(size, (block, head, token, 1), blocks.start * block + tokens.start * token)
