"""`Runner` on MLX: slot KV, float32 activations, one step in flight. Verified on the CPU only so far."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import msgspec
import numpy as np

from backends.api import LoadableModel, ModelInfo, RunnerCapabilities, Step, StepResult
from backends.mlx.attention import MlxKVPool
from backends.mlx.batch import make_batch
from backends.mlx.device import ERRORS, describe
from backends.mlx.matrix import FORMATS
from backends.mlx.ops import MlxOps
from backends.mlx.weights import MlxWeights
from backends.models.decoder import forward
from backends.models.spec import ModelSpec
from backends.runner_base import PlannedKV, RunnerBase

_MAX_VERIFY_ROWS = 64
_METAL_NOTE = "the mlx runner was verified on the CPU only; check its answers on Metal before relying on them"


class LazyResult(msgspec.Struct, frozen=True):
    """Logits that MLX computes while the host goes on."""

    logits: mx.array

    def take(self) -> StepResult:
        return StepResult(np.array(self.logits))


class MlxModel(msgspec.Struct, frozen=True):
    spec: ModelSpec
    weights: MlxWeights


class MlxRunner(RunnerBase[MlxModel, MlxKVPool]):
    """See `backends.api.Runner`. `submit` records the step and starts it; `collect` waits for its logits."""

    name = "mlx"
    errors = ERRORS

    def __init__(self, *, device: mx.Device, exact: bool, fallbacks: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._device = device
        self._fallbacks = fallbacks
        self._exact = exact

    def capabilities(self) -> RunnerCapabilities:
        return RunnerCapabilities(
            kv_layouts=("slot",), formats=FORMATS, max_verify_rows=_MAX_VERIFY_ROWS, deterministic=self._is_cpu
        )

    def load_weights(self, model: LoadableModel, progress: Callable[[float], None]) -> tuple[MlxModel, ModelInfo]:
        with ERRORS.load(), mx.stream(self._device):
            weights = MlxWeights(model, exact=self._exact, progress=progress)
        return MlxModel(model.spec, weights), ModelInfo(
            vocab_size=model.spec.vocab_size,
            max_context=model.spec.max_context,
            num_layers=model.spec.num_layers,
            weight_bytes=weights.num_bytes,
            device=describe(self._device),
            notes=weights.notes if self._is_cpu else (*weights.notes, _METAL_NOTE),
            fallbacks=self._fallbacks,
        )

    def allocate(self, model: MlxModel, planned: PlannedKV) -> MlxKVPool:
        with mx.stream(self._device):
            return MlxKVPool(model.spec, planned.plan)

    def run(self, step: Step, model: MlxModel, kv: MlxKVPool) -> LazyResult:
        with mx.stream(self._device):
            batch = make_batch(step, model.spec, slot_tokens=kv.slot_tokens)
            logits = forward(model.spec, MlxOps(model.spec, model.weights, kv, batch))[: len(step.logit_rows)]
            mx.async_eval(logits, kv.arrays)  # type: ignore[no-untyped-call]  # mlx's stubs leave it untyped
        return LazyResult(logits)

    def copy(self, kv: MlxKVPool, source: int, destination: int, num_tokens: int | None) -> None:
        with mx.stream(self._device):
            kv.copy(source, destination, num_tokens)

    def suspend(self) -> None:
        super().suspend()
        mx.clear_cache()

    def stats(self) -> dict[str, float]:
        """Add the bytes that mlx holds."""
        return {**super().stats(), "active_bytes": float(mx.get_active_memory())}

    @property
    def _is_cpu(self) -> bool:
        return describe(self._device) == "cpu"
