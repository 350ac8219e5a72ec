"""`Runner` on PyTorch: slot or paged KV, CPU or CUDA. Verified on the CPU only so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np
import torch
from torch import Tensor

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
from backends.models.spec import ModelSpec
from backends.runner_base import Layouts, check_step, context_of, plan_kv
from backends.torch.blocks import BLOCK_FORMATS
from backends.torch.device import describe, load_errors, step_errors
from backends.torch.execute import choose_executor, kv_bytes_per_token
from backends.torch.executor import Executor, StepTicket
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


class Planned(msgspec.Struct, frozen=True):
    plan: KVPlan
    max_sequences: int
    max_context: int


class TorchRunner:
    """See `backends.api.Runner`. On the CPU a step runs inside `submit`, on the calling thread and torch's pool."""

    def __init__(self, *, device: torch.device, threads: int, exact: bool, fallbacks: tuple[str, ...] = ()) -> None:
        self._threads = threads or torch.get_num_threads()
        self._exact = exact
        self._device = device
        self._fallbacks = fallbacks
        self._loaded: TorchModel | None = None
        self._planned: Planned | None = None
        self._executor: Executor | None = None
        self._tickets: deque[StepTicket] = deque()
        self._picked: Tensor | None = None
        self._num_steps = 0
        self._num_tokens = 0

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

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        self.close()
        check_supported(model.spec)
        torch.set_num_threads(self._threads)
        with load_errors(), torch.inference_mode():
            weights = TorchWeights(model, exact=self._exact, device=self._device, progress=progress)
        self._loaded = TorchModel(model.spec, weights)
        progress(1.0)
        return ModelInfo(
            vocab_size=model.spec.vocab_size,
            max_context=model.spec.max_context,
            num_layers=model.spec.num_layers,
            weight_bytes=weights.num_bytes,
            device=describe(self._device, threads=self._threads),
            notes=weights.notes if self._device.type == "cpu" else (*weights.notes, _CUDA_NOTE),
            fallbacks=(*self._fallbacks, *weights.fallbacks),
        )

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        loaded = self._require()
        bytes_per_token = kv_bytes_per_token(loaded.spec, loaded.weights, self._device)
        plan = plan_kv(loaded.spec, limit, layouts=self.capabilities().kv_layouts, bytes_per_token=bytes_per_token)
        self._planned = Planned(plan, limit.max_sequences, context_of(loaded.spec, limit))
        self.resume()
        return plan

    def warmup(self) -> None:
        """What the executor wants, then a prefill and a decode step in slot or block 0."""
        executor, planned = self._require_executor()
        with step_errors(), torch.inference_mode():
            executor.warmup(planned.max_sequences)
        for start, end in ((0, 2), (2, 3)):
            if end <= planned.max_context:
                self.collect(self.submit(_warmup_step(start, end)))

    def submit(self, step: Step) -> Ticket:
        """Beyond `async_depth` outstanding tickets, the oldest is cancelled."""
        spec, (executor, planned) = self._require().spec, self._require_executor()
        capabilities = self.capabilities()
        check_step(
            step,
            planned.plan,
            max_context=planned.max_context,
            vocab_size=spec.vocab_size,
            capabilities=capabilities,
        )
        picked = self._referred(step)
        with step_errors(), torch.inference_mode():
            logits = executor.run(step, picked)[: len(step.logit_rows)]
            self._picked = None if step.sampling is None else pick(logits, step.sampling)
            ticket = StepTicket(logits if self._picked is None else self._picked, vocab_size=spec.vocab_size)
        self._num_steps += 1
        self._num_tokens += step.num_tokens
        self._enqueue(ticket, depth=capabilities.async_depth)
        return ticket

    def collect(self, ticket: Ticket) -> StepResult:
        while self._tickets and not self._tickets[0].is_open:
            self._tickets.popleft()
        if not self._tickets or ticket is not self._tickets[0]:
            raise Fatal("tickets are collected once, in the order of submit, and not after they were cancelled")
        with step_errors():
            return self._tickets.popleft().take()

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Nothing to do: the next step's `kv_len` says what is valid."""

    def copy_blocks(self, pairs: list[tuple[int, int]], num_tokens: int | None = None) -> None:
        executor, planned = self._require_executor()
        for pair in pairs:
            if min(pair) < 0 or max(pair) >= planned.plan.num_blocks:
                raise Fatal(f"cannot copy block {pair[0]} to {pair[1]}: there are {planned.plan.num_blocks}")
            with step_errors(), torch.inference_mode():
                executor.copy(*pair, num_tokens)

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        raise CapacityExceeded(f"adapter slot {slot}, rank {weights.rank}: the torch runner declares no LoRA")

    def drop_adapter(self, slot: int) -> None:
        """Nothing to do: there are none."""

    def suspend(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()
        self._tickets.clear()
        self._picked = None
        self._executor = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def resume(self) -> None:
        loaded = self._require()
        if self._planned is None:
            raise Fatal("no KV memory was planned: plan_memory comes first")
        self.suspend()  # the old memory goes before the new one comes
        planned = self._planned
        with step_errors(), torch.inference_mode():
            self._executor = choose_executor(
                loaded.spec, loaded.weights, planned.plan, max_context=planned.max_context, device=self._device
            )

    def stats(self) -> dict[str, float]:
        """`steps` and `tokens` so far, and torch's `threads`."""
        return {"steps": float(self._num_steps), "tokens": float(self._num_tokens), "threads": float(self._threads)}

    def close(self) -> None:
        self.suspend()
        self._planned = None
        self._loaded = None

    def _referred(self, step: Step) -> Tensor | None:
        """What the step before picked, if this one refers to it."""
        num_referred = -int(step.token_ids.min())
        if num_referred <= 0:
            return None
        if self._picked is None or num_referred > len(self._picked):
            raise Fatal(f"a token id refers to row {num_referred - 1}, and the step before picked no such token")
        return self._picked

    def _enqueue(self, ticket: StepTicket, *, depth: int) -> None:
        self._tickets.append(ticket)
        if len(self._tickets) > depth:
            self._tickets.popleft().cancel()

    def _require(self) -> TorchModel:
        if self._loaded is None:
            raise Fatal("no model is loaded")
        return self._loaded

    def _require_executor(self) -> tuple[Executor, Planned]:
        if self._executor is None or self._planned is None:
            raise Fatal("no KV memory: plan_memory or resume comes first")
        return self._executor, self._planned


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
