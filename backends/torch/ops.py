"""The decoder's coarse operations, eagerly on torch tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from backends.models.spec import ModelSpec
from backends.torch.activations import ACTIVATIONS
from backends.torch.attention import attend
from backends.torch.batch import Batch
from backends.torch.experts import mix_experts
from backends.torch.pool import Pool
from backends.torch.rotary import rotate
from backends.torch.weights import Weights


class TorchOps:
    """`backends.models.ops.Ops[Tensor]` for one step, float32."""

    def __init__(self, spec: ModelSpec, weights: Weights, pool: Pool, batch: Batch) -> None:
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
        return branch.add_(residual)  # the branch is a fresh product that nobody else holds

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
        """Queries and keys `[T, heads + kv_heads, head_dim]`, normed as the spec says."""
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
