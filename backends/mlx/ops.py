"""The decoder's coarse operations on lazy MLX arrays."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from backends.mlx.attention import MlxKVPool, attend, rotate
from backends.mlx.batch import MlxBatch
from backends.mlx.weights import MlxWeights
from backends.models.spec import ModelSpec


def mix_experts(
    x: mx.array, scores: mx.array, run_expert: Callable[[mx.array, int], mx.array], spec: ModelSpec
) -> mx.array:
    """`[T, hidden]` and router scores `[T, experts]` → `[T, hidden]`.

    `run_expert(rows, expert)` is called once for each expert that some token chose. Waits for the scores: which
    experts run is decided on the host.
    """
    shares = mx.softmax(scores, axis=1)
    chosen = mx.argsort(-shares, axis=1)[:, : spec.experts_per_token]
    weights = mx.take_along_axis(shares, chosen, axis=1)
    if spec.normalized_experts:
        weights = weights / weights.sum(axis=1, keepdims=True)
    experts = np.array(chosen)
    mixed = mx.zeros_like(x)
    for expert in np.unique(experts).tolist():
        tokens, choices = np.nonzero(experts == expert)
        rows = mx.array(tokens)
        share = weights[rows, mx.array(choices)][:, None]
        mixed = mixed.at[rows].add(run_expert(x[rows], expert) * share)
    return mixed


_GELU_INNER, _GELU_CUBE = 0.7978845608028654, 0.044715
"""sqrt(2 / pi) and the factor of the cube in GELU's tanh form (arXiv:1606.08415)."""


class MlxOps:
    """`backends.models.ops.Ops[mx.array]` for one step, float32."""

    def __init__(self, spec: ModelSpec, weights: MlxWeights, pool: MlxKVPool, batch: MlxBatch) -> None:
        self._spec = spec
        self._weights = weights
        self._pool = pool
        self._batch = batch

    def embed(self) -> mx.array:
        return self._weights.embedding.rows(self._batch.token_ids)

    def norm(self, hidden: mx.array, weight: str) -> mx.array:
        return mx.fast.rms_norm(hidden, self._weights.vectors[weight], self._spec.rms_norm_eps)

    def add(self, branch: mx.array, residual: mx.array) -> mx.array:
        return branch + residual

    def add_norm(self, branch: mx.array, residual: mx.array, weight: str) -> tuple[mx.array, mx.array]:
        total = branch + residual
        return self.norm(total, weight), total

    def scale(self, x: mx.array, factor: float) -> mx.array:
        return x * factor

    def softcap(self, x: mx.array, cap: float) -> mx.array:
        return mx.tanh(x / cap) * cap

    def linear(self, x: mx.array, names: tuple[str, ...]) -> mx.array:
        return self._weights.linears[names](x)

    def attention(self, qkv: mx.array, layer: int) -> mx.array:
        spec, rotation = self._spec, self._batch.rotations[self._spec.rope(layer)]
        q, k, v = mx.split(qkv, [spec.q_size, spec.q_size + spec.kv_size], axis=1)
        q = rotate(self._normed(q, spec.num_heads, f"layers.{layer}.q_norm"), rotation)
        k = rotate(self._normed(k, spec.num_kv_heads, f"layers.{layer}.k_norm"), rotation)
        self._pool.write(layer, self._batch.places, k, v.reshape(-1, spec.num_kv_heads, spec.head_dim))
        return attend(q, layer, self._batch.spans[spec.window(layer)], self._pool, spec)

    def gated(self, gate_up: mx.array) -> mx.array:
        gate, up = mx.split(gate_up, 2, axis=1)
        return self._activated(gate) * up

    def experts(self, normed: mx.array, layer: int) -> mx.array:
        scores = self.linear(normed, (f"layers.{layer}.router",))
        return mix_experts(normed, scores, lambda x, expert: self._expert(x, layer, expert), self._spec)

    def select(self, x: mx.array) -> mx.array:
        return x[self._batch.logit_rows]

    def head(self, normed: mx.array, name: str) -> mx.array:
        return self._weights.linears[name,](normed)

    def _activated(self, x: mx.array) -> mx.array:
        if self._spec.activation == "silu":
            return x * mx.sigmoid(x)
        return 0.5 * x * (1 + mx.tanh(_GELU_INNER * (x + _GELU_CUBE * x * x * x)))

    def _normed(self, x: mx.array, heads: int, weight: str) -> mx.array:
        """`[T, heads * head_dim]` → `[T, heads, head_dim]`, normed over each head or over all, or not at all."""
        if self._spec.qk_norm_whole:
            x = self.norm(x, weight)
        split = x.reshape(-1, heads, self._spec.head_dim)
        return self.norm(split, weight) if self._spec.qk_norm else split

    def _expert(self, x: mx.array, layer: int, expert: int) -> mx.array:
        prefix = f"layers.{layer}.experts.{expert}"
        gate_up = self.linear(x, (f"{prefix}.gate", f"{prefix}.up"))
        return self.linear(self.gated(gate_up), (f"{prefix}.down",))
