"""The decoder's coarse operations on CUDA, each a matrix product or one Triton kernel. Not verified on a GPU yet.

The residual stream is float32: its cost is negligible compared with the weights, and sums of many layers keep their
digits. Inputs of a matrix product, and keys and values, have the weights' type; products are summed in float32.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from backends.models.rotary import rotary_amplitude, rotary_frequencies
from backends.models.spec import ModelSpec, Rope
from backends.torch.cuda.fused import add_rms_norm, gated, rms_norm, rotate_and_store
from backends.torch.cuda.inputs import DeviceStep
from backends.torch.cuda.paged_attention import Pages, attend
from backends.torch.cuda.weights import CudaWeights
from backends.torch.ops import mix_experts


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """Data that stays on the device between steps.

    `keys`, `values`: for each layer `[num_blocks, block_tokens, kv_heads, head_dim]`. `frequencies`: float64
    `[head_dim / 2]` for each rotary embedding of the model.
    """

    spec: ModelSpec
    weights: CudaWeights
    keys: list[Tensor]
    values: list[Tensor]
    frequencies: dict[Rope, Tensor]


def rotary_tables(spec: ModelSpec, device: torch.device) -> dict[Rope, Tensor]:
    """`Resident.frequencies`."""
    ropes = {spec.rope(layer) for layer in range(spec.num_layers)}
    return {rope: torch.from_numpy(rotary_frequencies(rope, spec.head_dim)).to(device) for rope in ropes}


class CudaOps:
    """`backends.models.ops.Ops[Tensor]` for one step. `logit_rows` None: logits of every token."""

    def __init__(self, resident: Resident, step: DeviceStep, pages: Pages, *, logit_rows: Tensor | None) -> None:
        self._resident, self._spec, self._weights = resident, resident.spec, resident.weights
        self._step, self._pages, self._logit_rows = step, pages, logit_rows
        self._rotations = {
            rope: _rotation(step.positions, frequencies, rotary_amplitude(rope))
            for rope, frequencies in resident.frequencies.items()
        }

    def embed(self) -> Tensor:
        return self._weights.embedding.rows(self._step.token_ids)

    def norm(self, hidden: Tensor, weight: str) -> Tensor:
        return self._rms_norm(hidden, self._weights.norms[weight])

    def add(self, branch: Tensor, residual: Tensor) -> Tensor:
        return residual + branch

    def add_norm(self, branch: Tensor, residual: Tensor, weight: str) -> tuple[Tensor, Tensor]:
        norm = self._weights.norms[weight]
        return add_rms_norm(branch, residual, norm, self._spec.rms_norm_eps, dtype=self._weights.dtype)

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return (x / cap).tanh_().mul_(cap)

    def linear(self, x: Tensor, names: tuple[str, ...]) -> Tensor:
        return self._weights.linears[names](x.to(self._weights.dtype))

    def attention(self, qkv: Tensor, layer: int) -> Tensor:
        spec, resident = self._spec, self._resident
        keys, values, norm = resident.keys[layer], resident.values[layer], self._weights.head_norms[layer]
        if spec.qk_norm_whole:
            qkv, norm = self._norm_whole(qkv, layer), None
        rotation = self._rotations[spec.rope(layer)]
        queries = rotate_and_store(
            qkv, *rotation, self._step.slot_map, keys=keys, values=values, norm=norm, eps=spec.rms_norm_eps
        )
        attended = attend(
            queries,
            keys,
            values,
            self._pages,
            scale=spec.score_scale,
            softcap=spec.attention_softcap,
            window=spec.window(layer),
        )
        return attended.flatten(1)

    def gated(self, gate_up: Tensor) -> Tensor:
        return gated(gate_up, gelu=self._spec.activation == "gelu_tanh")

    def experts(self, normed: Tensor, layer: int) -> Tensor:
        """Waits for the device, so it cannot be recorded. Scores and the weighted sum are float32."""
        scores = self._weights.linears[f"layers.{layer}.router",].exactly(normed)
        return mix_experts(normed.float(), scores, lambda x, expert: self._expert(x, layer, expert), self._spec)

    def select(self, x: Tensor) -> Tensor:
        return x if self._logit_rows is None else x[self._logit_rows]

    def head(self, normed: Tensor, name: str) -> Tensor:
        """Logits in float32: rounded to the activations' type, close ones would tie."""
        return self._weights.linears[name,].exactly(normed)

    def _expert(self, x: Tensor, layer: int, expert: int) -> Tensor:
        prefix = f"layers.{layer}.experts.{expert}"
        gate_up = self.linear(x, (f"{prefix}.gate", f"{prefix}.up"))
        return self.linear(self.gated(gate_up), (f"{prefix}.down",)).float()

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, self._spec.rms_norm_eps, dtype=self._weights.dtype)

    def _norm_whole(self, qkv: Tensor, layer: int) -> Tensor:
        norm, spec = self._weights.head_norms[layer], self._spec
        assert norm is not None  # `qk_norm_whole` says that the model has them
        q, k, v = qkv.split_with_sizes((spec.q_size, spec.kv_size, spec.kv_size), dim=1)
        q_norm, k_norm = norm.flatten().split_with_sizes((spec.q_size, spec.kv_size))
        return torch.cat((self._rms_norm(q, q_norm), self._rms_norm(k, k_norm), v), dim=1)


def _rotation(positions: Tensor, frequencies: Tensor, amplitude: float) -> tuple[Tensor, Tensor]:
    """float32 `[T, head_dim / 2]`: cosine and sine of the angles, which take float64's digits at far positions."""
    angles = positions.double().unsqueeze(1) * frequencies
    return (angles.cos() * amplitude).float(), (angles.sin() * amplitude).float()
