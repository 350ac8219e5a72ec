"""The decoder's coarse operations, eagerly on torch tensors.

Sequence by sequence: with neighbouring blocks its keys are a view. Gathering the keys of all sequences into one padded
tensor was four to eight times slower on the CPU, at 64 to 1,024 tokens each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from backends.models.spec import ModelSpec
from backends.torch.batch import TorchBatch, TorchSpan, rotate
from backends.torch.pool import TorchKVPool
from backends.torch.support import ACTIVATIONS
from backends.torch.weights import TorchWeights


def mix_experts(x: Tensor, scores: Tensor, run_expert: Callable[[Tensor, int], Tensor], spec: ModelSpec) -> Tensor:
    """`[T, hidden]` and router scores `[T, experts]` → `[T, hidden]`.

    `run_expert(rows, expert)` is called once for each expert that some token chose, with those tokens' rows. Waits
    for the device: which experts run is decided on the host.
    """
    weights, chosen = scores.softmax(dim=1).topk(spec.experts_per_token, dim=1)
    if spec.normalized_experts:
        weights /= weights.sum(dim=1, keepdim=True)
    order = chosen.flatten().argsort(stable=True)  # pairs (token, choice) by expert
    tokens = order // spec.experts_per_token
    shares = weights.flatten()[order].unsqueeze(1)
    mixed = torch.zeros_like(x)
    start = 0
    for expert, count in enumerate(chosen.flatten().bincount(minlength=spec.num_experts).tolist()):
        if not count:
            continue
        rows = tokens[start : start + count]
        mixed.index_add_(0, rows, run_expert(x[rows], expert).mul_(shares[start : start + count]))
        start += count
    return mixed


def attend(queries: Tensor, layer: int, spans: tuple[TorchSpan, ...], pool: TorchKVPool, spec: ModelSpec) -> Tensor:
    """`[T, heads, head_dim]` → `[T, heads * head_dim]`. The new tokens' keys and values are in the pool already."""
    grouped = queries.view(len(queries), spec.num_kv_heads, -1, spec.head_dim)
    attend_span = _attend_capped if spec.attention_softcap else _attend
    attended = [
        attend_span(part, *pool.read(layer, span.blocks, span.keys), span, spec).flatten(1)
        for part, span in zip(torch.split(grouped, [span.num_queries for span in spans]), spans, strict=True)
    ]
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, span: TorchSpan, spec: ModelSpec) -> Tensor:
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


def _attend_capped(queries: Tensor, keys: Tensor, values: Tensor, span: TorchSpan, spec: ModelSpec) -> Tensor:
    """The same with `spec.attention_softcap`, which torch's own attention does not support."""
    cap = spec.attention_softcap
    by_head = queries.permute(1, 2, 0, 3)  # [kv_heads, group, n, head_dim]
    scores = torch.matmul(by_head, keys.transpose(2, 3).squeeze(0).unsqueeze(1))
    scores = scores.mul_(spec.score_scale / cap).tanh_().mul_(cap)
    if span.mask is not None:
        scores += span.mask
    elif span.num_queries > 1:
        scores += torch.full(scores.shape[-2:], -torch.inf, device=scores.device).triu_(1)
    return torch.matmul(scores.softmax(dim=-1), values.squeeze(0).unsqueeze(1)).permute(2, 0, 1, 3)


class TorchOps:
    """`backends.models.ops.Ops[Tensor]` for one step, float32."""

    def __init__(self, spec: ModelSpec, weights: TorchWeights, pool: TorchKVPool, batch: TorchBatch) -> None:
        self._spec = spec
        self._weights = weights
        self._pool = pool
        self._batch = batch
        self._activation = ACTIVATIONS[spec.activation]

    def embed(self) -> Tensor:
        return self._weights.embedding.rows(self._batch.token_ids)

    def norm(self, hidden: Tensor, weight: str) -> Tensor:
        return self._rms_norm(hidden, self._weights.norms[weight])

    def add(self, branch: Tensor, residual: Tensor) -> Tensor:
        return branch.add_(residual)  # the branch is a fresh product without other references

    def add_norm(self, branch: Tensor, residual: Tensor, weight: str) -> tuple[Tensor, Tensor]:
        total = self.add(branch, residual)
        return self.norm(total, weight), total

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return (x / cap).tanh_().mul_(cap)

    def linear(self, x: Tensor, names: tuple[str, ...]) -> Tensor:
        return self._weights.linears[names](x)

    def attention(self, qkv: Tensor, layer: int) -> Tensor:
        spec, batch = self._spec, self._batch
        heads = qkv.view(len(qkv), -1, spec.head_dim)
        qk, v = heads[:, : -spec.num_kv_heads], heads[:, -spec.num_kv_heads :]
        rotated = rotate(self._norm_heads(qk, layer), batch.rotations[spec.rope(layer)])
        self._pool.write(layer, batch.places, rotated[:, spec.num_heads :], v)
        spans = batch.spans[spec.window(layer)]
        return attend(rotated[:, : spec.num_heads], layer, spans, self._pool, spec)

    def gated(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=1)
        return self._activation(gate).mul_(up)

    def experts(self, normed: Tensor, layer: int) -> Tensor:
        scores = self.linear(normed, (f"layers.{layer}.router",))
        return mix_experts(normed, scores, lambda x, expert: self._expert(x, layer, expert), self._spec)

    def select(self, x: Tensor) -> Tensor:
        return x[self._batch.logit_rows]

    def head(self, normed: Tensor, name: str) -> Tensor:
        return self._weights.linears[name,](normed)

    def _norm_heads(self, qk: Tensor, layer: int) -> Tensor:
        """Norm queries and keys `[T, heads + kv_heads, head_dim]` as the spec says."""
        weight, spec = self._weights.head_norms[layer], self._spec
        if weight is None:
            return qk
        if not spec.qk_norm_whole:
            return rms_norm(qk, (spec.head_dim,), eps=spec.rms_norm_eps).mul_(weight)
        sizes = [spec.num_heads, spec.num_kv_heads]
        parts = zip(torch.split(qk, sizes, dim=1), torch.split(weight, sizes), strict=True)
        return torch.cat([self._rms_norm(x.flatten(1), each.flatten()).view_as(x) for x, each in parts], dim=1)

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight.shape, weight, self._spec.rms_norm_eps)

    def _expert(self, x: Tensor, layer: int, expert: int) -> Tensor:
        prefix = f"layers.{layer}.experts.{expert}"
        gate_up = self.linear(x, (f"{prefix}.gate", f"{prefix}.up"))
        return self.linear(self.gated(gate_up), (f"{prefix}.down",))
