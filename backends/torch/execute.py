"""The eager executor, and the choice of an executor for a device."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from backends.api import KVPlan, Step
from backends.errors import Fatal
from backends.models.decoder import forward
from backends.models.spec import ModelSpec
from backends.torch.batch import Rotary, make_batch
from backends.torch.executor import Executor
from backends.torch.ops import TorchOps
from backends.torch.pool import TorchKVPool
from backends.torch.weights import TorchWeights


class EagerExecutor:
    """One torch operation after the other: the CPU's executor, and the reference for others."""

    def __init__(
        self, spec: ModelSpec, weights: TorchWeights, plan: KVPlan, *, max_context: int, device: torch.device
    ) -> None:
        del max_context  # no buffer here depends on it
        self._spec = spec
        self._weights = weights
        self._rotary = Rotary(spec, device)
        self.pool = TorchKVPool(spec, plan, device=device)

    def run(self, step: Step, picked: Tensor | None = None) -> Tensor:
        batch = make_batch(step, self._spec, self.pool, self._rotary, picked=picked)
        return forward(self._spec, TorchOps(self._spec, self._weights, self.pool, batch))

    def copy(self, source: int, destination: int, num_tokens: int | None = None) -> None:
        self.pool.copy(source, destination, num_tokens)

    def warmup(self, max_sequences: int) -> None:
        """Nothing depends on the number of sequences."""


def kv_bytes_per_token(spec: ModelSpec, weights: TorchWeights, device: torch.device) -> int:
    """Bytes of a token's keys and values in all layers: float32 on the CPU, the weights' own type on CUDA."""
    if device.type != "cuda":
        return spec.kv_bytes_per_token
    from backends.torch.cuda.weights import kv_type

    return spec.kv_bytes_per_token * kv_type(weights).itemsize // 4


def choose_executor(
    spec: ModelSpec, weights: TorchWeights, plan: KVPlan, *, max_context: int, device: torch.device
) -> Executor:
    """Allocate the plan's KV memory on the device. Raises torch's error when memory is short."""
    if device.type != "cuda":
        return EagerExecutor(spec, weights, plan, max_context=max_context, device=device)
    from backends.torch.cuda import make_executor  # needs triton, which only CUDA builds of torch bring

    if find_spec("triton") is None:
        raise Fatal("torch on CUDA needs triton, which is not installed; pip install triton, or use device cpu")
    return make_executor(spec, weights, plan, max_context=max_context, device=device)
