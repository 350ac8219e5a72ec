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
    Ticket,
)
from backends.errors import CapacityExceeded, Fatal, ModelError, UnsupportedModel
from backends.kernels.attention import KV_TYPES
from backends.kv import BLOCK_TOKENS, KVDtype
from backends.onnx.adapters import MAX_RANK, SLOTS, TARGETS
from backends.onnx.attention.hostelry_kernel import RaggedAttention
from backends.onnx.embedding import Embedding
from backends.onnx.errors import step_errors
from backends.onnx.kv.blocks import BlockBinding, BlockPool
from backends.onnx.kv.on_device import DeviceBinding
from backends.onnx.kv.slots import Binding, SlotPool
from backends.onnx.load import OnnxModel, load_model
from backends.onnx.padding import split
from backends.onnx.provider import Provider
from backends.onnx.providers import ProviderChoice
from backends.onnx.session import physical_cores, trim_heap
from backends.onnx.weights import FORMATS, Kernels, find_kernels
from backends.runner_base import Layouts, check_step, context_of, plan_kv

_MAX_VERIFY_ROWS = 16
_LAYOUTS: Layouts = ("paged", "slot")

AnyBinding = BlockBinding | Binding | DeviceBinding


class DoneTicket:
    """Everything is computed within `submit`; the ticket only carries the result."""

    def __init__(self, logits: F32) -> None:
        self.logits: F32 | None = logits

    def cancel(self) -> None:
        self.logits = None


class OnnxRunner:
    """See `backends.api.Runner`. Steps run inside `submit`, on the calling thread and ONNX Runtime's pool.

    Logits lie in a buffer that the next `submit` overwrites, so only the last ticket can be collected.
    """

    def __init__(self, choice: ProviderChoice, *, threads: int, exact: bool) -> None:
        self._choice = choice
        self._threads = threads or physical_cores()
        self._exact = exact
        is_on_cpu = any(provider.device == "cpu" and provider.on_host for provider in choice.candidates)
        self._kernels = find_kernels() if is_on_cpu and not exact else Kernels()
        self._has_blocks = self._kernels.library is not None and len(choice.candidates) == 1
        self._loaded: OnnxModel | None = None
        self._plan: KVPlan | None = None
        self._kv_type: KVDtype = "f32"
        self._max_context = 0
        self._binding: AnyBinding | None = None
        self._ticket: DoneTicket | None = None
        self._num_steps = 0
        self._num_runs = 0
        self._num_tokens = 0

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

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        self.close()
        self._loaded, failed = self._load(model, progress)
        trim_heap()
        progress(1.0)
        spec, provider = model.spec, self._loaded.provider
        return ModelInfo(
            vocab_size=spec.vocab_size,
            max_context=spec.max_context,
            num_layers=spec.num_layers,
            weight_bytes=self._loaded.weight_bytes,
            lora_shapes=self._loaded.adapters.shapes if self._has_blocks and self._loaded.adapters else {},
            device=f"cpu, {self._threads} threads" if provider.device == "cpu" else provider.device,
            notes=self._loaded.notes,
            fallbacks=(*self._choice.fallbacks, *failed, *self._loaded.fallbacks),
        )

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        loaded, capabilities = self._require(), self.capabilities()
        self._kv_type = _kv_type(loaded, limit)
        self._plan = plan_kv(
            loaded.spec,
            limit,
            layouts=capabilities.kv_layouts,
            dtypes=capabilities.kv_dtypes,
            bytes_per_token=_bytes_per_token(loaded, self._kv_type),
            step=BLOCK_TOKENS if loaded.attention is RaggedAttention else 1,
        )
        self._plan = msgspec.structs.replace(self._plan, dtype=self._kv_type)
        self._max_context = context_of(loaded.spec, limit)
        self.resume()
        return self._plan

    def warmup(self) -> None:
        """A prefill and a decode step in slot or block 0."""
        self._require_binding()
        for start, end in ((0, 2), (2, 3)):
            if end <= self._max_context:
                self.collect(self.submit(_warmup_step(start, end)))

    def submit(self, step: Step) -> Ticket:
        loaded, binding = self._require(), self._require_binding()
        assert self._plan is not None
        check_step(
            step,
            self._plan,
            max_context=self._max_context,
            vocab_size=loaded.spec.vocab_size,
            capabilities=self.capabilities(),
        )
        if self._ticket is not None:
            self._ticket.cancel()
        with step_errors():
            logits = self._run(step, loaded.embedding, binding)
        self._num_steps += 1
        self._num_tokens += step.num_tokens
        self._ticket = DoneTicket(logits)
        return self._ticket

    def collect(self, ticket: Ticket) -> StepResult:
        if not isinstance(ticket, DoneTicket) or ticket.logits is None:
            raise Fatal("a ticket is collected once, before the next submit, and not after it was cancelled")
        logits, ticket.logits = ticket.logits, None
        return StepResult(logits)

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Nothing to do: the next step's `kv_len` says what is valid."""

    def copy_blocks(self, pairs: list[tuple[int, int]], num_tokens: int | None = None) -> None:
        pool = self._require_binding().pool
        for pair in pairs:
            if min(pair) < 0 or max(pair) >= pool.num_slots:
                raise Fatal(f"cannot copy slot {pair[0]} to {pair[1]}: there are {pool.num_slots}")
            pool.copy(*pair, num_tokens)

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        adapters = self._require().adapters
        if adapters is None:
            raise CapacityExceeded(f"adapter slot {slot}: the onnx runner takes adapters with Hostelry's kernels only")
        adapters.put(slot, weights)

    def drop_adapter(self, slot: int) -> None:
        adapters = self._require().adapters
        if adapters is not None:
            adapters.drop(slot)

    def suspend(self) -> None:
        self._binding = None
        trim_heap()

    def resume(self) -> None:
        loaded = self._require()
        if self._plan is None:
            raise Fatal("no KV memory was planned: plan_memory comes first")
        self._binding = None  # the old pool goes before the new one comes
        with step_errors():
            self._binding = self._bind(loaded, self._plan)

    def stats(self) -> dict[str, float]:
        """`steps` and `tokens` so far; `graph_runs` exceeds `steps` where steps were split."""
        return {
            "steps": float(self._num_steps),
            "graph_runs": float(self._num_runs),
            "tokens": float(self._num_tokens),
            "threads": float(self._threads),
        }

    def close(self) -> None:
        self._ticket = None
        self._binding = None
        self._plan = None
        self._loaded = None

    def _load(self, model: LoadableModel, progress: Callable[[float], None]) -> tuple[OnnxModel, list[str]]:
        """On the first device that takes the model, and why others before it did not."""
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

    def _bind(self, loaded: OnnxModel, plan: KVPlan) -> AnyBinding:
        library = self._kernels.library
        if library is not None and loaded.adapters is not None:
            blocks = BlockPool(loaded.spec, plan, library, self._kv_type)
            return BlockBinding(loaded, blocks, loaded.adapters, max_context=self._max_context)
        if not loaded.provider.on_host:
            return DeviceBinding(loaded, plan)
        pool = SlotPool(loaded.spec, num_slots=plan.num_blocks, slot_tokens=plan.block_tokens)
        return Binding(loaded.session, loaded.spec, pool)

    def _run(self, step: Step, embedding: Embedding, binding: AnyBinding) -> F32:
        parts = [(step, np.arange(0))] if isinstance(binding, BlockBinding) else split(step)
        self._num_runs += len(parts)
        if len(parts) == 1:
            return binding.run(embedding, step)
        logits = np.empty((len(step.logit_rows), self._require().spec.vocab_size), np.float32)
        for part, rows in parts:
            logits[rows] = binding.run(embedding, part)
        return logits

    def _require(self) -> OnnxModel:
        if self._loaded is None:
            raise Fatal("no model is loaded")
        return self._loaded

    def _require_binding(self) -> AnyBinding:
        if self._binding is None:
            raise Fatal("no KV memory: plan_memory or resume comes first")
        return self._binding


def _kv_type(loaded: OnnxModel, limit: KVLimit) -> KVDtype:
    """Half precision beside activations that are rounded to int8 anyway, if nothing else is asked for."""
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


def _warmup_step(start: int, end: int) -> Step:
    return Step(
        token_ids=np.zeros(end - start, np.int64),
        positions=np.arange(start, end, dtype=np.int32),
        q_start=np.array([0, end - start], np.int32),
        kv_len=np.array([end], np.int32),
        slot=np.zeros(1, np.int32),
        logit_rows=np.array([end - start - 1], np.int32),
        lora=np.full(1, -1, np.int32),
        block_table=np.zeros((1, 1), np.int32),
        slot_map=np.arange(start, end, dtype=np.int32),
    )
