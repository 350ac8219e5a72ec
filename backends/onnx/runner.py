"""`Runner` on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from backends.api import (
    F32,
    AdapterWeights,
    KVLimit,
    KVPlan,
    LoadableModel,
    ModelInfo,
    RunnerCapabilities,
    Step,
    StepResult,
)
from backends.errors import CapacityExceeded, ModelError, UnsupportedModel
from backends.kernels.attention import KV_TYPES
from backends.kv import BLOCK_TOKENS, KVDtype
from backends.onnx.adapters import MAX_RANK, SLOTS, TARGETS
from backends.onnx.attention.hostelry_kernel import RaggedAttention
from backends.onnx.errors import ERRORS
from backends.onnx.kv.blocks import BlockBinding, BlockPool
from backends.onnx.kv.on_device import DeviceBinding
from backends.onnx.kv.slots import Binding, SlotPool
from backends.onnx.load import OnnxModel, load_model
from backends.onnx.padding import split
from backends.onnx.provider import Provider
from backends.onnx.providers import ProviderChoice
from backends.onnx.session import physical_cores, trim_heap
from backends.onnx.weights import FORMATS, Kernels, find_kernels
from backends.runner_base import Layouts, PlannedKV, RunnerBase, plan_kv

_MAX_VERIFY_ROWS = 16
_LAYOUTS: Layouts = ("paged", "slot")

AnyBinding = BlockBinding | Binding | DeviceBinding


class OnnxRunner(RunnerBase[OnnxModel, AnyBinding]):
    """See `backends.api.Runner`. Steps run inside `submit`, on the calling thread and ONNX Runtime's pool.

    Logits lie in a buffer that the next `submit` overwrites, so only the last ticket can be collected.
    """

    errors = ERRORS

    def __init__(self, choice: ProviderChoice, *, threads: int, exact: bool) -> None:
        super().__init__()
        self._choice = choice
        self._threads = threads or physical_cores()
        self._exact = exact
        is_on_cpu = any(provider.device == "cpu" and provider.on_host for provider in choice.candidates)
        self._kernels = find_kernels() if is_on_cpu and not exact else Kernels()
        self._has_blocks = self._kernels.library is not None and len(choice.candidates) == 1
        self._num_runs = 0

    def capabilities(self) -> RunnerCapabilities:
        return RunnerCapabilities(
            kv_layouts=_LAYOUTS if self._has_blocks else ("slot",),
            formats=FORMATS,
            max_verify_rows=_MAX_VERIFY_ROWS,
            lora_max_rank=MAX_RANK if self._has_blocks else 0,
            lora_slots=SLOTS if self._has_blocks else 0,
            lora_targets=TARGETS if self._has_blocks else (),
            lora_formats=FORMATS if self._has_blocks else (),
            kv_dtypes=tuple(KV_TYPES) if self._has_blocks else (),
            scattered_slots=self._has_blocks,
            deterministic=all(provider.on_host for provider in self._choice.candidates),
        )

    def load_weights(self, model: LoadableModel, progress: Callable[[float], None]) -> tuple[OnnxModel, ModelInfo]:
        loaded, failed = self._load(model, progress)
        trim_heap()
        progress(1.0)
        spec, provider = model.spec, loaded.provider
        return loaded, ModelInfo(
            vocab_size=spec.vocab_size,
            max_context=spec.max_context,
            num_layers=spec.num_layers,
            weight_bytes=loaded.weight_bytes,
            lora_shapes=loaded.adapters.shapes if self._has_blocks and loaded.adapters else {},
            device=f"cpu, {self._threads} threads" if provider.device == "cpu" else provider.device,
            notes=loaded.notes,
            fallbacks=(*self._choice.fallbacks, *failed, *loaded.fallbacks),
        )

    def plan(self, model: OnnxModel, limit: KVLimit) -> KVPlan:
        capabilities, kv_type = self.capabilities(), _kv_type(model, limit)
        plan = plan_kv(
            model.spec,
            limit,
            layouts=capabilities.kv_layouts,
            dtypes=capabilities.kv_dtypes,
            bytes_per_token=_bytes_per_token(model, kv_type),
            step=BLOCK_TOKENS if model.attention is RaggedAttention else 1,
        )
        return msgspec.structs.replace(plan, dtype=kv_type)

    def allocate(self, model: OnnxModel, planned: PlannedKV) -> AnyBinding:
        library, plan = self._kernels.library, planned.plan
        if library is not None and model.adapters is not None:
            blocks = BlockPool(model.spec, plan, library, _kv_type(model, planned.limit))
            return BlockBinding(model, blocks, model.adapters, max_context=planned.max_context)
        if not model.provider.on_host:
            return DeviceBinding(model, plan)
        pool = SlotPool(model.spec, num_slots=plan.num_blocks, slot_tokens=plan.block_tokens)
        return Binding(model.session, model.spec, pool)

    def run(self, step: Step, model: OnnxModel, kv: AnyBinding) -> StepResult:
        parts = [(step, np.arange(0))] if isinstance(kv, BlockBinding) else split(step)
        self._num_runs += len(parts)
        if len(parts) == 1:
            return StepResult(kv.run(model.embedding, step))
        logits: F32 = np.empty((len(step.logit_rows), model.spec.vocab_size), np.float32)
        for part, rows in parts:
            logits[rows] = kv.run(model.embedding, part)
        return StepResult(logits)

    def copy(self, kv: AnyBinding, source: int, destination: int, num_tokens: int | None) -> None:
        kv.pool.copy(source, destination, num_tokens)

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        adapters = self.model.adapters
        if adapters is None:
            raise CapacityExceeded(f"adapter slot {slot}: the onnx runner takes adapters with Hostelry's kernels only")
        adapters.put(slot, weights)

    def drop_adapter(self, slot: int) -> None:
        adapters = self.model.adapters
        if adapters is not None:
            adapters.drop(slot)

    def suspend(self) -> None:
        super().suspend()
        trim_heap()

    def stats(self) -> dict[str, float]:
        """Add `graph_runs`, which exceeds `steps` where steps were split, and `threads`."""
        return {**super().stats(), "graph_runs": float(self._num_runs), "threads": float(self._threads)}

    def _load(self, model: LoadableModel, progress: Callable[[float], None]) -> tuple[OnnxModel, list[str]]:
        """Load on the first device that takes the model; return why others before it did not."""
        *others, last = self._choice.candidates
        failed: list[str] = []
        for provider in others:
            try:
                return self._load_on(provider, model, progress), failed
            except UnsupportedModel:
                raise
            except ModelError as error:
                failed.append(f"{provider.device} refused the model: {error}")
        return self._load_on(last, model, progress), failed

    def _load_on(self, provider: Provider, model: LoadableModel, progress: Callable[[float], None]) -> OnnxModel:
        return load_model(
            model, provider, kernels=self._kernels, threads=self._threads, exact=self._exact, progress=progress
        )


def _kv_type(loaded: OnnxModel, limit: KVLimit) -> KVDtype:
    """Return half precision beside activations that are rounded to int8 anyway, if nothing else is asked for."""
    if limit.dtype != "auto":
        return limit.dtype
    return "f16" if loaded.attention is RaggedAttention and loaded.is_quantized else "f32"


def _bytes_per_token(loaded: OnnxModel, dtype: KVDtype) -> int:
    spec = loaded.spec
    elements = spec.kv_bytes_per_token // 4
    if dtype == "int8":
        return elements + 4 * elements // spec.head_dim
    copies = 1 if loaded.provider.in_place else 2
    return elements * (2 if dtype == "f16" else 4) * copies
