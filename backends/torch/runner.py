"""`Runner` on PyTorch: slot or paged KV, CPU or CUDA. Verified on the CPU only so far."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import torch
from torch import Tensor

from backends.api import KVLimit, KVPlan, LoadableModel, ModelInfo, RunnerCapabilities, Step
from backends.errors import Fatal
from backends.models.spec import ModelSpec
from backends.runner_base import Layouts, PlannedKV, RunnerBase, plan_kv
from backends.torch.blocks import BLOCK_FORMATS
from backends.torch.device import ERRORS, describe
from backends.torch.execute import choose_executor, kv_bytes_per_token
from backends.torch.executor import DeviceResult, Executor
from backends.torch.sampling import pick
from backends.torch.support import check_supported
from backends.torch.weights import TorchWeights

_CPU_LAYOUTS: Layouts = ("slot", "paged")
"""Blocks that do not lie side by side are gathered before torch attends to them."""
_CUDA_LAYOUTS: Layouts = ("paged", "slot")
_MAX_VERIFY_ROWS = 64
_CUDA_NOTE = "the torch runner was verified on the CPU only; check its answers on CUDA before relying on them"


class TorchModel(msgspec.Struct, frozen=True):
    spec: ModelSpec
    weights: TorchWeights


class TorchRunner(RunnerBase[TorchModel, Executor]):
    """See `backends.api.Runner`. On the CPU a step runs inside `submit`, on the calling thread and torch's pool."""

    name = "torch"
    errors = ERRORS

    def __init__(self, *, device: torch.device, threads: int, exact: bool, fallbacks: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._threads = threads or torch.get_num_threads()
        self._exact = exact
        self._device = device
        self._fallbacks = fallbacks
        self._picked: Tensor | None = None

    def capabilities(self) -> RunnerCapabilities:
        is_cpu = self._device.type == "cpu"
        return RunnerCapabilities(
            kv_layouts=_CPU_LAYOUTS if is_cpu else _CUDA_LAYOUTS,
            formats=tuple(BLOCK_FORMATS),
            max_verify_rows=_MAX_VERIFY_ROWS,
            device_sampling=True,
            async_depth=1 if is_cpu else 2,
            deterministic=is_cpu,
        )

    def load_weights(self, model: LoadableModel, progress: Callable[[float], None]) -> tuple[TorchModel, ModelInfo]:
        check_supported(model.spec)
        torch.set_num_threads(self._threads)
        with ERRORS.load(), torch.inference_mode():
            weights = TorchWeights(model, exact=self._exact, device=self._device, progress=progress)
        progress(1.0)
        return TorchModel(model.spec, weights), ModelInfo(
            vocab_size=model.spec.vocab_size,
            max_context=model.spec.max_context,
            num_layers=model.spec.num_layers,
            weight_bytes=weights.num_bytes,
            device=describe(self._device, threads=self._threads),
            notes=weights.notes if self._device.type == "cpu" else (*weights.notes, _CUDA_NOTE),
            fallbacks=(*self._fallbacks, *weights.fallbacks),
        )

    def plan(self, model: TorchModel, limit: KVLimit) -> KVPlan:
        bytes_per_token = kv_bytes_per_token(model.spec, model.weights, self._device)
        return plan_kv(model.spec, limit, layouts=self.capabilities().kv_layouts, bytes_per_token=bytes_per_token)

    def allocate(self, model: TorchModel, planned: PlannedKV) -> Executor:
        with torch.inference_mode():
            return choose_executor(
                model.spec, model.weights, planned.plan, max_context=planned.max_context, device=self._device
            )

    def warmup(self) -> None:
        """Run what the executor wants, then the probe steps."""
        with ERRORS.step(), torch.inference_mode():
            self.kv.warmup(self.planned.limit.max_sequences)
        super().warmup()

    def run(self, step: Step, model: TorchModel, kv: Executor) -> DeviceResult:
        picked = self._referred(step)
        with torch.inference_mode():
            logits = kv.run(step, picked)[: len(step.logit_rows)]
            self._picked = None if step.sampling is None else pick(logits, step.sampling)
            return DeviceResult(logits if self._picked is None else self._picked, vocab_size=model.spec.vocab_size)

    def copy(self, kv: Executor, source: int, destination: int, num_tokens: int | None) -> None:
        with torch.inference_mode():
            kv.copy(source, destination, num_tokens)

    def suspend(self) -> None:
        super().suspend()
        self._picked = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def stats(self) -> dict[str, float]:
        """Add torch's `threads`."""
        return {**super().stats(), "threads": float(self._threads)}

    def _referred(self, step: Step) -> Tensor | None:
        """Return what the step before picked, if this one refers to it."""
        num_referred = -int(step.token_ids.min())
        if num_referred <= 0:
            return None
        if self._picked is None or num_referred > len(self._picked):
            raise Fatal(f"a token id refers to row {num_referred - 1}, and the step before picked no such token")
        return self._picked
