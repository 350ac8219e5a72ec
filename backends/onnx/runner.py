"""`Runner` on ONNX Runtime, slot KV."""

from __future__ import annotations

from collections.abc import Callable

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
from backends.onnx.binding import Binding
from backends.onnx.cores import physical_cores
from backends.onnx.device import DeviceBinding
from backends.onnx.embedding import Embedding
from backends.onnx.failures import step_errors
from backends.onnx.heap import trim_heap
from backends.onnx.linears import FORMATS
from backends.onnx.load import LoadedModel, load_model
from backends.onnx.pool import Pool
from backends.onnx.providers import ProviderChoice
from backends.onnx.split import split
from backends.plan import plan_kv
from backends.steps import check_step

_MAX_VERIFY_ROWS = 16


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
        self._loaded: LoadedModel | None = None
        self._plan: KVPlan | None = None
        self._binding: Binding | DeviceBinding | None = None
        self._ticket: DoneTicket | None = None
        self._num_steps = 0
        self._num_runs = 0
        self._num_tokens = 0

    def capabilities(self) -> RunnerCapabilities:
        return RunnerCapabilities(
            kv_layouts=("slot",),
            formats=FORMATS,
            max_verify_rows=_MAX_VERIFY_ROWS,
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
            device=f"cpu, {self._threads} threads" if provider.device == "cpu" else provider.device,
            notes=self._loaded.notes,
            fallbacks=(*self._choice.fallbacks, *failed, *self._loaded.fallbacks),
        )

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        loaded = self._require()
        copies = 1 if loaded.provider.in_place else 2
        self._plan = plan_kv(loaded.spec, limit, element_bytes=4 * copies)
        self.resume()
        return self._plan

    def warmup(self) -> None:
        """A prefill and a decode step in slot 0."""
        for start, end in ((0, 2), (2, 3)):
            if end <= self._require_binding().pool.slot_tokens:
                self.collect(self.submit(_warmup_step(start, end)))

    def submit(self, step: Step) -> Ticket:
        loaded, binding = self._require(), self._require_binding()
        assert self._plan is not None
        check_step(
            step,
            self._plan,
            max_context=self._plan.block_tokens,
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

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        pool = self._require_binding().pool
        for pair in pairs:
            if min(pair) < 0 or max(pair) >= pool.num_slots:
                raise Fatal(f"cannot copy slot {pair[0]} to {pair[1]}: there are {pool.num_slots}")
            pool.copy(*pair)

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        raise CapacityExceeded(f"adapter slot {slot}, rank {weights.rank}: the onnx runner declares no LoRA")

    def drop_adapter(self, slot: int) -> None:
        """Nothing to do: there are none."""

    def suspend(self) -> None:
        self._binding = None
        trim_heap()

    def resume(self) -> None:
        loaded = self._require()
        if self._plan is None:
            raise Fatal("no KV memory was planned: plan_memory comes first")
        self._binding = None  # the old pool goes before the new one comes
        with step_errors():
            self._binding = _bind(loaded, self._plan)

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

    def _load(self, model: LoadableModel, progress: Callable[[float], None]) -> tuple[LoadedModel, list[str]]:
        """On the first device that takes the model, and why others before it did not."""
        *others, last = self._choice.candidates
        failed: list[str] = []
        for provider in others:
            try:
                return load_model(model, provider, threads=self._threads, exact=self._exact, progress=progress), failed
            except UnsupportedModel:
                raise
            except ModelError as error:
                failed.append(f"{provider.device} refused the model: {error}")
        return load_model(model, last, threads=self._threads, exact=self._exact, progress=progress), failed

    def _run(self, step: Step, embedding: Embedding, binding: Binding | DeviceBinding) -> F32:
        parts = split(step)
        self._num_runs += len(parts)
        if len(parts) == 1:
            return binding.run(embedding, step)
        logits = np.empty((len(step.logit_rows), self._require().spec.vocab_size), np.float32)
        for part, rows in parts:
            logits[rows] = binding.run(embedding, part)
        return logits

    def _require(self) -> LoadedModel:
        if self._loaded is None:
            raise Fatal("no model is loaded")
        return self._loaded

    def _require_binding(self) -> Binding | DeviceBinding:
        if self._binding is None:
            raise Fatal("no KV memory: plan_memory or resume comes first")
        return self._binding


def _bind(loaded: LoadedModel, plan: KVPlan) -> Binding | DeviceBinding:
    if not loaded.provider.on_host:
        return DeviceBinding(loaded, plan)
    pool = Pool(loaded.spec, num_slots=plan.num_blocks, slot_tokens=plan.block_tokens)
    return Binding(loaded.session, loaded.spec, pool)


def _warmup_step(start: int, end: int) -> Step:
    return Step(
        token_ids=np.zeros(end - start, np.int64),
        positions=np.arange(start, end, dtype=np.int32),
        q_start=np.array([0, end - start], np.int32),
        kv_len=np.array([end], np.int32),
        slot=np.zeros(1, np.int32),
        logit_rows=np.array([end - start - 1], np.int32),
        lora=np.full(1, -1, np.int32),
    )
