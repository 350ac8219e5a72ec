"""`Runner` on eager PyTorch: slot or paged KV, CPU or CUDA, float32. Verified on the CPU only so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

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
from backends.errors import Fatal, RunnerError
from backends.models.decoder import forward
from backends.models.spec import ModelSpec
from backends.torch.batch import make_batch
from backends.torch.blocks import BLOCK_FORMATS
from backends.torch.checks import check_step
from backends.torch.device import choose_device, describe
from backends.torch.failures import load_errors, step_errors
from backends.torch.ops import TorchOps
from backends.torch.plan import plan_kv
from backends.torch.pool import Pool
from backends.torch.rotary import rotary_frequencies
from backends.torch.weights import Weights

_MAX_VERIFY_ROWS = 64
_CUDA_NOTE = "the torch runner was verified on the CPU only; check its answers on CUDA before relying on them"


class DoneTicket:
    """Steps run within `submit`; the ticket only carries the result."""

    def __init__(self, logits: F32) -> None:
        self.logits: F32 | None = logits

    def cancel(self) -> None:
        self.logits = None


class LoadedModel(msgspec.Struct, frozen=True):
    spec: ModelSpec
    weights: Weights
    frequencies: Tensor


class TorchRunner:
    """See `backends.api.Runner`. Steps run inside `submit`, on the calling thread and torch's pool."""

    def __init__(self, *, threads: int, exact: bool, kv_layout: Literal["slot", "paged"]) -> None:
        self._threads = threads or torch.get_num_threads()
        self._exact = exact
        self._kv_layout: Literal["slot", "paged"] = kv_layout
        self._device = choose_device()
        self._loaded: LoadedModel | None = None
        self._plan: KVPlan | None = None
        self._max_context = 0
        self._pool: Pool | None = None
        self._ticket: DoneTicket | None = None
        self._num_steps = 0
        self._num_tokens = 0

    def capabilities(self) -> RunnerCapabilities:
        """Either layout; a plan has the one that the runner was made for."""
        return RunnerCapabilities(
            kv_layouts=("slot", "paged"),
            formats=tuple(BLOCK_FORMATS),
            max_verify_rows=_MAX_VERIFY_ROWS,
            deterministic=self._device.type == "cpu",
        )

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        self.close()
        torch.set_num_threads(self._threads)
        with load_errors(), torch.inference_mode():
            weights = Weights(model, exact=self._exact, device=self._device, progress=progress)
            frequencies = rotary_frequencies(model.spec, self._device)
        self._loaded = LoadedModel(model.spec, weights, frequencies)
        progress(1.0)
        return ModelInfo(
            vocab_size=model.spec.vocab_size,
            max_context=model.spec.max_context,
            num_layers=model.spec.num_layers,
            weight_bytes=weights.num_bytes,
            device=describe(self._device, threads=self._threads),
            notes=weights.notes if self._device.type == "cpu" else (*weights.notes, _CUDA_NOTE),
        )

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        spec = self._require().spec
        self._plan = plan_kv(spec, limit, layout=self._kv_layout)
        self._max_context = min(limit.max_context, spec.max_context)
        self.resume()
        return self._plan

    def warmup(self) -> None:
        """A prefill and a decode step in slot or block 0."""
        self._require_pool()
        for start, end in ((0, 2), (2, 3)):
            if end <= self._max_context:
                self.collect(self.submit(_warmup_step(start, end)))

    def submit(self, step: Step) -> Ticket:
        loaded, pool = self._require(), self._require_pool()
        check_step(step, pool, vocab_size=loaded.spec.vocab_size, max_verify_rows=_MAX_VERIFY_ROWS)
        if self._ticket is not None:
            self._ticket.cancel()
        with step_errors(), torch.inference_mode():
            batch = make_batch(step, pool, loaded.frequencies)
            logits = forward(loaded.spec, TorchOps(loaded.spec, loaded.weights, pool, batch))
            self._ticket = DoneTicket(logits.cpu().numpy())
        self._num_steps += 1
        self._num_tokens += step.num_tokens
        return self._ticket

    def collect(self, ticket: Ticket) -> StepResult:
        if not isinstance(ticket, DoneTicket) or ticket.logits is None:
            raise Fatal("a ticket is collected once, before the next submit, and not after it was cancelled")
        logits, ticket.logits = ticket.logits, None
        return StepResult(logits)

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Nothing to do: the next step's `kv_len` says what is valid."""

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        pool = self._require_pool()
        for pair in pairs:
            if min(pair) < 0 or max(pair) >= pool.num_blocks:
                raise Fatal(f"cannot copy block {pair[0]} to {pair[1]}: there are {pool.num_blocks}")
            with step_errors(), torch.inference_mode():
                pool.copy(*pair)

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        raise RunnerError(f"adapter slot {slot}, rank {weights.rank}: the torch runner declares no LoRA")

    def drop_adapter(self, slot: int) -> None:
        raise RunnerError(f"adapter slot {slot}: the torch runner declares no LoRA")

    def suspend(self) -> None:
        self._ticket = None
        self._pool = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def resume(self) -> None:
        spec = self._require().spec
        if self._plan is None:
            raise Fatal("no KV memory was planned: plan_memory comes first")
        self._pool = None  # the old pool goes before the new one comes
        with step_errors(), torch.inference_mode():
            self._pool = Pool(spec, self._plan, max_context=self._max_context, device=self._device)

    def stats(self) -> dict[str, float]:
        """`steps` and `tokens` so far, and torch's `threads`."""
        return {"steps": float(self._num_steps), "tokens": float(self._num_tokens), "threads": float(self._threads)}

    def close(self) -> None:
        self.suspend()
        self._plan = None
        self._loaded = None

    def _require(self) -> LoadedModel:
        if self._loaded is None:
            raise Fatal("no model is loaded")
        return self._loaded

    def _require_pool(self) -> Pool:
        if self._pool is None:
            raise Fatal("no KV memory: plan_memory or resume comes first")
        return self._pool


def _warmup_step(start: int, end: int) -> Step:
    """Tokens `start` to `end` of a sequence in slot 0 or block 0; each layout reads its own fields."""
    positions = np.arange(start, end, dtype=np.int32)
    return Step(
        token_ids=np.zeros(end - start, np.int64),
        positions=positions,
        q_start=np.array([0, end - start], np.int32),
        kv_len=np.array([end], np.int32),
        slot=np.zeros(1, np.int32),
        logit_rows=np.array([end - start - 1], np.int32),
        lora=np.full(1, -1, np.int32),
        block_table=np.zeros((1, 1), np.int32),
        slot_map=positions,
    )
