"""`Runner` on MLX: slot KV, float32 activations, one step in flight. Verified on the CPU only so far."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import msgspec
import numpy as np

from backends.api import (
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
from backends.errors import CapacityExceeded, Fatal
from backends.mlx.attention import MlxKVPool
from backends.mlx.batch import make_batch
from backends.mlx.device import describe, load_errors, step_errors
from backends.mlx.matrix import FORMATS
from backends.mlx.ops import MlxOps
from backends.mlx.weights import MlxWeights
from backends.models.decoder import forward
from backends.models.spec import ModelSpec
from backends.runner_base import check_step, plan_kv

_MAX_VERIFY_ROWS = 64
_METAL_NOTE = "the mlx runner was verified on the CPU only; check its answers on Metal before relying on them"


class LazyTicket:
    """Logits that MLX computes while the host goes on."""

    def __init__(self, logits: mx.array) -> None:
        self.logits: mx.array | None = logits

    def cancel(self) -> None:
        self.logits = None


class MlxModel(msgspec.Struct, frozen=True):
    spec: ModelSpec
    weights: MlxWeights


class MlxRunner:
    """See `backends.api.Runner`. `submit` records the step and starts it; `collect` waits for its logits."""

    def __init__(self, *, device: mx.Device, exact: bool, fallbacks: tuple[str, ...] = ()) -> None:
        self._device = device
        self._fallbacks = fallbacks
        self._exact = exact
        self._loaded: MlxModel | None = None
        self._plan: KVPlan | None = None
        self._pool: MlxKVPool | None = None
        self._ticket: LazyTicket | None = None
        self._num_steps = 0
        self._num_tokens = 0

    def capabilities(self) -> RunnerCapabilities:
        return RunnerCapabilities(
            kv_layouts=("slot",), formats=FORMATS, max_verify_rows=_MAX_VERIFY_ROWS, deterministic=self._is_cpu
        )

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        self.close()
        with load_errors(), mx.stream(self._device):
            self._loaded = MlxModel(model.spec, MlxWeights(model, exact=self._exact, progress=progress))
        notes = self._loaded.weights.notes
        return ModelInfo(
            vocab_size=model.spec.vocab_size,
            max_context=model.spec.max_context,
            num_layers=model.spec.num_layers,
            weight_bytes=self._loaded.weights.num_bytes,
            device=describe(self._device),
            notes=notes if self._is_cpu else (*notes, _METAL_NOTE),
            fallbacks=self._fallbacks,
        )

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        self._plan = plan_kv(self._require().spec, limit)
        self.resume()
        return self._plan

    def warmup(self) -> None:
        """A prefill and a decode step in slot 0."""
        context = self._require_pool().slot_tokens
        for start, end in ((0, 2), (2, 3)):
            if end <= context:
                self.collect(self.submit(_warmup_step(start, end)))

    def submit(self, step: Step) -> Ticket:
        loaded, pool = self._require(), self._require_pool()
        assert self._plan is not None  # the pool was made from it
        check_step(
            step,
            self._plan,
            max_context=self._plan.block_tokens,
            vocab_size=loaded.spec.vocab_size,
            capabilities=self.capabilities(),
        )
        if self._ticket is not None:
            self._ticket.cancel()
        with step_errors(), mx.stream(self._device):
            batch = make_batch(step, loaded.spec, slot_tokens=pool.slot_tokens)
            logits = forward(loaded.spec, MlxOps(loaded.spec, loaded.weights, pool, batch))[: len(step.logit_rows)]
            mx.async_eval(logits, pool.arrays)  # type: ignore[no-untyped-call]  # mlx's stubs leave it untyped
        self._num_steps += 1
        self._num_tokens += step.num_tokens
        self._ticket = LazyTicket(logits)
        return self._ticket

    def collect(self, ticket: Ticket) -> StepResult:
        if not isinstance(ticket, LazyTicket) or ticket.logits is None:
            raise Fatal("a ticket is collected once, before the next submit, and not after it was cancelled")
        logits, ticket.logits = ticket.logits, None
        with step_errors():
            return StepResult(np.array(logits))

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Nothing to do: the next step's `kv_len` says what is valid."""

    def copy_blocks(self, pairs: list[tuple[int, int]], num_tokens: int | None = None) -> None:
        pool = self._require_pool()
        assert self._plan is not None  # the pool was made from it
        for pair in pairs:
            if min(pair) < 0 or max(pair) >= self._plan.num_blocks:
                raise Fatal(f"cannot copy slot {pair[0]} to {pair[1]}: there are {self._plan.num_blocks}")
            with step_errors(), mx.stream(self._device):
                pool.copy(*pair, num_tokens)

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        raise CapacityExceeded(f"adapter slot {slot}, rank {weights.rank}: the mlx runner declares no LoRA")

    def drop_adapter(self, slot: int) -> None:
        """Nothing to do: there are none."""

    def suspend(self) -> None:
        if self._ticket is not None:
            self._ticket.cancel()
        self._ticket = None
        self._pool = None
        mx.clear_cache()

    def resume(self) -> None:
        spec = self._require().spec
        if self._plan is None:
            raise Fatal("no KV memory was planned: plan_memory comes first")
        self.suspend()  # the old pool goes before the new one comes
        with step_errors(), mx.stream(self._device):
            self._pool = MlxKVPool(spec, self._plan)

    def stats(self) -> dict[str, float]:
        """`steps` and `tokens` so far, and the bytes that mlx holds."""
        return {
            "steps": float(self._num_steps),
            "tokens": float(self._num_tokens),
            "active_bytes": float(mx.get_active_memory()),
        }

    def close(self) -> None:
        self.suspend()
        self._plan = None
        self._loaded = None

    @property
    def _is_cpu(self) -> bool:
        return describe(self._device) == "cpu"

    def _require(self) -> MlxModel:
        if self._loaded is None:
            raise Fatal("no model is loaded")
        return self._loaded

    def _require_pool(self) -> MlxKVPool:
        if self._pool is None:
            raise Fatal("no KV memory: plan_memory or resume comes first")
        return self._pool


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
