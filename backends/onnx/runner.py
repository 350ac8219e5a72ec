"""`Runner` on ONNX Runtime, CPU, slot KV."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import onnxruntime as ort

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
from backends.errors import CapacityExceeded, Fatal, RunnerError
from backends.models.decoder import forward
from backends.models.spec import ModelSpec
from backends.onnx.binding import StepBinding
from backends.onnx.embedding import Embedding
from backends.onnx.graph import Recorder
from backends.onnx.layout import lay_out
from backends.onnx.linears import FORMATS, Weights
from backends.onnx.pool import Pool
from backends.onnx.session import open_session

_MAX_VERIFY_ROWS = 16


class _Loaded(msgspec.Struct, frozen=True):
    """What `load` leaves behind."""

    spec: ModelSpec
    session: ort.InferenceSession
    embedding: Embedding


class DoneTicket(msgspec.Struct):
    """The CPU computes within `submit`; the ticket only carries the result."""

    logits: F32 | None

    def cancel(self) -> None:
        self.logits = None


class OnnxRunner:
    """See `backends.api.Runner`. Steps run inside `submit`, on the calling thread and ONNX Runtime's pool."""

    def __init__(self, *, threads: int, exact: bool) -> None:
        self._threads = threads
        self._exact = exact
        self._loaded: _Loaded | None = None
        self._binding: StepBinding | None = None
        self._plan: KVPlan | None = None
        self._num_steps = 0

    def capabilities(self) -> RunnerCapabilities:
        return RunnerCapabilities(
            kv_layouts=("slot",), formats=FORMATS, max_verify_rows=_MAX_VERIFY_ROWS, deterministic=False
        )

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        spec = model.spec
        weights = Weights(model.tensors, exact=self._exact)
        recorder = Recorder(spec, weights)
        logits = forward(spec, recorder)
        progress(0.5)
        session = open_session(recorder.model(logits), recorder.initializers, threads=self._threads)
        self._loaded = _Loaded(spec, session, Embedding(model.tensors["embed"]))
        progress(1.0)
        notes = ("exact: quantized weights are computed as float32",) if self._exact else ()
        return ModelInfo(
            vocab_size=spec.vocab_size,
            max_context=spec.max_context,
            num_layers=spec.num_layers,
            weight_bytes=weights.num_bytes,
            device=f"cpu, {session.get_session_options().intra_op_num_threads or 'all'} threads",
            notes=notes,
        )

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        spec = self._require().spec
        slot_tokens = min(limit.max_context, spec.max_context)
        slot_bytes = slot_tokens * spec.kv_bytes_per_token
        num_slots = min(limit.max_sequences, limit.max_bytes // slot_bytes)
        if num_slots < 1:
            raise CapacityExceeded(
                f"one sequence of {slot_tokens} tokens needs {slot_bytes / 1e6:.0f} MB of KV memory and "
                f"{limit.max_bytes / 1e6:.0f} MB are allowed; raise kv_cache_mb or lower max_context"
            )
        self._plan = KVPlan(
            layout="slot", num_blocks=num_slots, block_tokens=slot_tokens, bytes_per_block=slot_bytes
        )
        self.resume()
        return self._plan

    def warmup(self) -> None:
        """One prefill and one decode step in slot 0."""
        for positions in ([0, 1], [2]):
            self.collect(self.submit(_warmup_step(positions)))

    def submit(self, step: Step) -> Ticket:
        loaded, binding = self._require(), self._binding
        if binding is None:
            raise Fatal("no KV memory: plan_memory or resume must come first")
        if int(step.kv_len.max()) > binding.pool.slot_tokens or int(step.slot.max()) >= binding.pool.num_slots:
            raise CapacityExceeded(f"the step exceeds {binding.pool.num_slots} slots of {binding.pool.slot_tokens}")
        try:
            logits = binding.run(loaded.embedding.rows(step.token_ids), lay_out(step), step.logit_rows)
        except ort.capi.onnxruntime_pybind11_state.RuntimeException as error:
            raise Fatal(f"onnxruntime: {error}") from error
        self._num_steps += 1
        return DoneTicket(logits)

    def collect(self, ticket: Ticket) -> StepResult:
        if not isinstance(ticket, DoneTicket) or ticket.logits is None:
            raise Fatal("a ticket is collected once, and not after it was cancelled")
        logits, ticket.logits = ticket.logits, None
        return StepResult(logits)

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Nothing to do: the next step's `kv_len` says what is valid."""

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        if self._binding is None:
            raise Fatal("no KV memory: plan_memory or resume must come first")
        for source, destination in pairs:
            self._binding.pool.copy(source, destination)

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        raise RunnerError(f"adapter slot {slot}: this runner declares no LoRA")

    def drop_adapter(self, slot: int) -> None:
        raise RunnerError(f"adapter slot {slot}: this runner declares no LoRA")

    def suspend(self) -> None:
        self._binding = None

    def resume(self) -> None:
        if self._plan is None:
            raise Fatal("no KV memory was planned")
        loaded = self._require()
        pool = Pool(loaded.spec, num_slots=self._plan.num_blocks, slot_tokens=self._plan.block_tokens)
        self._binding = StepBinding(loaded.session, loaded.spec, pool)

    def stats(self) -> dict[str, float]:
        return {"steps": float(self._num_steps)}

    def close(self) -> None:
        self._binding = None
        self._loaded = None

    def _require(self) -> _Loaded:
        if self._loaded is None:
            raise Fatal("no model is loaded")
        return self._loaded


def _warmup_step(positions: list[int]) -> Step:
    num_tokens = len(positions)
    return Step(
        token_ids=np.zeros(num_tokens, np.int64),
        positions=np.array(positions, np.int32),
        q_start=np.array([0, num_tokens], np.int32),
        kv_len=np.array([positions[-1] + 1], np.int32),
        slot=np.zeros(1, np.int32),
        logit_rows=np.array([num_tokens - 1], np.int32),
        lora=np.full(1, -1, np.int32),
    )
