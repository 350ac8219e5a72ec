"""The decoder's coarse operations, eagerly on torch tensors."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import rms_norm, silu

from backends.models.spec import ModelSpec
from backends.torch.attention import attend
from backends.torch.batch import Batch
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

    def embed(self) -> Tensor:
        return self._weights.embedding.rows(self._batch.token_ids)

    def norm(self, hidden: Tensor, weight: str) -> Tensor:
        return rms_norm(hidden, (hidden.shape[-1],), self._weights.norms[weight], self._spec.rms_norm_eps)

    def add_norm(self, branch: Tensor, residual: Tensor, weight: str) -> tuple[Tensor, Tensor]:
        total = branch.add_(residual)  # the branch is a fresh product that nobody else holds
        return self.norm(total, weight), total

    def linear(self, x: Tensor, names: tuple[str, ...]) -> Tensor:
        return self._weights.linears[names](x)

    def attention(self, qkv: Tensor, layer: int) -> Tensor:
        spec, batch = self._spec, self._batch
        heads = qkv.view(len(qkv), -1, spec.head_dim)
        qk, v = heads[:, : -spec.num_kv_heads], heads[:, -spec.num_kv_heads :]
        head_norm = self._weights.head_norms[layer]
        if head_norm is not None:
            qk = rms_norm(qk, (spec.head_dim,), eps=spec.rms_norm_eps) * head_norm
        rotated = rotate(qk, batch.cos, batch.sin)
        self._pool.write(layer, batch.slot_map, rotated[:, spec.num_heads :], v)
        return attend(rotated[:, : spec.num_heads], layer, batch, self._pool).flatten(1)

    def gated(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=1)
        return silu(gate).mul_(up)

    def head(self, normed: Tensor, name: str) -> Tensor:
        return self._weights.linears[name,](normed[self._batch.logit_rows])
