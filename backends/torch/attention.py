"""Attention of new tokens over a sequence's keys and values.

Sequence by sequence: with neighbouring blocks its keys are a view. Gathering the keys of all sequences into one padded
tensor was four to eight times slower on the CPU, at 64 to 1,024 tokens each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from backends.torch.batch import Batch, Span
from backends.torch.pool import Pool


def attend(queries: Tensor, layer: int, batch: Batch, pool: Pool) -> Tensor:
    """`[T, heads, head_dim]` → the same. The new tokens' keys and values are in the pool already."""
    attended = torch.empty_like(queries, memory_format=torch.contiguous_format)
    for span in batch.spans:
        keys, values = pool.read(layer, span.blocks, span.num_keys)
        attended[span.tokens] = _attend_span(queries[span.tokens], keys, values, span)
    return attended


def _attend_span(queries: Tensor, keys: Tensor, values: Tensor, span: Span) -> Tensor:
    """`[n, heads, head_dim]` queries over `[num_keys, kv_heads, head_dim]`."""
    k, v = keys.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0)
    if span.num_queries == 1:
        # Query heads that share a key head are that head's queries: twice as fast as letting torch repeat the keys.
        grouped = queries.reshape(1, keys.shape[1], -1, keys.shape[2])
        return scaled_dot_product_attention(grouped, k, v).reshape(queries.shape)
    attended = scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        k,
        v,
        attn_mask=span.mask,
        is_causal=span.mask is None,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    return attended.squeeze(0).transpose(0, 1)
