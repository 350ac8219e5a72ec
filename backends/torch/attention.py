"""Attention of new tokens over a sequence's keys and values.

Sequence by sequence: with neighbouring blocks its keys are a view. Gathering the keys of all sequences into one padded
tensor was four to eight times slower on the CPU, at 64 to 1,024 tokens each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from backends.models.spec import ModelSpec
from backends.torch.batch import Span
from backends.torch.pool import Pool


def attend(queries: Tensor, layer: int, spans: tuple[Span, ...], pool: Pool, spec: ModelSpec) -> Tensor:
    """`[T, heads, head_dim]` → `[T, heads * head_dim]`. The new tokens' keys and values are in the pool already."""
    grouped = queries.view(len(queries), spec.num_kv_heads, -1, spec.head_dim)
    attend_span = _attend_capped if spec.attention_softcap else _attend
    attended = [
        attend_span(part, *pool.read(layer, span.blocks, span.keys), span, spec).flatten(1)
        for part, span in zip(torch.split(grouped, [span.num_queries for span in spans]), spans, strict=True)
    ]
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, span: Span, spec: ModelSpec) -> Tensor:
    """`[n, kv_heads, group, head_dim]` queries over `[1, kv_heads, keys, head_dim]` → `[n, ...]`."""
    if span.num_queries == 1:
        # Query heads that share a key head are that head's queries: twice as fast as letting torch repeat the keys.
        return scaled_dot_product_attention(queries, keys, values, scale=spec.score_scale)
    attended = scaled_dot_product_attention(
        queries.flatten(1, 2).transpose(0, 1).unsqueeze(0),
        keys,
        values,
        attn_mask=span.mask,
        is_causal=span.mask is None,
        scale=spec.score_scale,
        enable_gqa=queries.shape[2] > 1,
    )
    return attended.squeeze(0).transpose(0, 1)


def _attend_capped(queries: Tensor, keys: Tensor, values: Tensor, span: Span, spec: ModelSpec) -> Tensor:
    """The same with `spec.attention_softcap`, which torch's own attention does not know."""
    cap = spec.attention_softcap
    by_head = queries.permute(1, 2, 0, 3)  # [kv_heads, group, n, head_dim]
    scores = torch.matmul(by_head, keys.transpose(2, 3).squeeze(0).unsqueeze(1))
    scores = scores.mul_(spec.score_scale / cap).tanh_().mul_(cap)
    if span.mask is not None:
        scores += span.mask
    elif span.num_queries > 1:
        scores += torch.full(scores.shape[-2:], -torch.inf, device=scores.device).triu_(1)
    return torch.matmul(scores.softmax(dim=-1), values.squeeze(0).unsqueeze(1)).permute(2, 0, 1, 3)
