"""Base class of runners: life cycle, step checks, tickets, probe steps and error mapping; and KV memory planning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec

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
from backends.errors import CapacityExceeded, Fatal, LibraryErrors
from backends.kv import BLOCK_TOKENS, KVDtype, KVLayout
from backends.models.spec import ModelSpec
from backends.steps import check_step, probe_step

Layouts = tuple[KVLayout, ...]


class HasSpec(Protocol):
    @property
    def spec(self) -> ModelSpec: ...


class PendingResult(Protocol):
    """Result of a step that a device still computes."""

    def take(self) -> StepResult:
        """Wait for the step; called once. Raises the library's error if the step failed."""
        ...


class PlannedKV(msgspec.Struct, frozen=True):
    """KV memory as planned, and what a step is checked against."""

    plan: KVPlan
    limit: KVLimit
    max_context: int
    capabilities: RunnerCapabilities


class StepTicket(msgspec.Struct, eq=False):
    """A submitted step; it leaves `outstanding` when it is collected or cancelled."""

    result: StepResult | PendingResult | None
    outstanding: deque[StepTicket]

    def cancel(self) -> None:
        if self.result is not None:
            self.result = None
            self.outstanding.remove(self)


Model = TypeVar("Model", bound=HasSpec)
KV = TypeVar("KV")


class RunnerBase(ABC, Generic[Model, KV]):
    """Implements `backends.api.Runner` but for what differs between tensor libraries.

    A runner writes `capabilities`, `load_weights`, `allocate`, `run` and `copy`. It overrides `plan` where KV is not
    float32, `put_adapter` and `drop_adapter` where it declares LoRA, and any other method to add to it, such as
    `suspend` to empty the library's caches. `Model` is what it keeps of a model, `KV` its KV memory.
    """

    name: ClassVar[str] = "chosen"
    """Name in the refusal of adapters: "the `name` runner declares no LoRA"."""
    errors: ClassVar[LibraryErrors] = LibraryErrors()
    """Applied to `allocate`, `run`, `copy` and pending results; `load_weights` applies `errors.load()` itself."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._planned: PlannedKV | None = None
        self._kv: KV | None = None
        self._tickets: deque[StepTicket] = deque()
        self._num_steps = 0
        self._num_tokens = 0

    @abstractmethod
    def capabilities(self) -> RunnerCapabilities:
        """See `Runner.capabilities`."""

    @abstractmethod
    def load_weights(self, model: LoadableModel, progress: Callable[[float], None]) -> tuple[Model, ModelInfo]:
        """Do what `Runner.load` promises; nothing is loaded when it is called."""

    @abstractmethod
    def allocate(self, model: Model, planned: PlannedKV) -> KV:
        """Allocate the planned KV memory; an earlier one is free by then."""

    @abstractmethod
    def run(self, step: Step, model: Model, kv: KV) -> StepResult | PendingResult:
        """Run a step that `check_step` has accepted, or start it and return a pending result."""

    @abstractmethod
    def copy(self, kv: KV, source: int, destination: int, num_tokens: int | None) -> None:
        """Copy a slot or block, or at least its first tokens; both numbers are within the plan."""

    def plan(self, model: Model, limit: KVLimit) -> KVPlan:
        """Plan what `allocate` will take: float32 keys and values, unless overridden."""
        capabilities = self.capabilities()
        return plan_kv(model.spec, limit, layouts=capabilities.kv_layouts, dtypes=capabilities.kv_dtypes)

    @property
    def model(self) -> Model:
        """Model that `load_weights` returned. Raises `Fatal` while no model is loaded."""
        if self._model is None:
            raise Fatal("no model is loaded, or the runner is closed: load comes first")
        return self._model

    @property
    def planned(self) -> PlannedKV:
        """The last plan. Raises `Fatal` before `plan_memory`."""
        if self._planned is None:
            raise Fatal("no KV memory was planned: plan_memory comes first")
        return self._planned

    @property
    def kv(self) -> KV:
        """KV memory that `allocate` returned. Raises `Fatal` before `plan_memory` and while suspended."""
        if self._kv is None:
            raise Fatal("no KV memory: plan_memory or resume comes first")
        return self._kv

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        self.close()
        self._model, info = self.load_weights(model, progress)
        return info

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        model = self.model
        plan = self.plan(model, limit)
        self._planned = PlannedKV(plan, limit, context_of(model.spec, limit), self.capabilities())
        self.resume()
        return plan

    def warmup(self) -> None:
        """Run a prefill and a decode step in slot or block 0."""
        _, context = self.kv, self.planned.max_context
        for start, end in ((0, 2), (2, 3)):
            if end <= context:
                self.collect(self.submit(probe_step(start, end)))

    def submit(self, step: Step) -> Ticket:
        """Check and run a step. Beyond `async_depth` outstanding tickets, the oldest is cancelled."""
        model, kv, planned = self.model, self.kv, self.planned
        capabilities = planned.capabilities
        check_step(
            step,
            planned.plan,
            max_context=planned.max_context,
            vocab_size=model.spec.vocab_size,
            capabilities=capabilities,
        )
        if len(self._tickets) >= capabilities.async_depth:
            self._tickets[0].cancel()
        try:
            ticket = StepTicket(self.run(step, model, kv), self._tickets)
        except self.errors.in_steps as error:
            raise self.errors.step_error(error) from error
        self._tickets.append(ticket)
        self._num_steps += 1
        self._num_tokens += step.num_tokens
        return ticket

    def collect(self, ticket: Ticket) -> StepResult:
        if not self._tickets or ticket is not self._tickets[0]:
            raise Fatal("tickets are collected once, in the order of submit, and not after they were cancelled")
        oldest = self._tickets.popleft()
        result, oldest.result = oldest.result, None
        assert result is not None
        try:
            return result if isinstance(result, StepResult) else result.take()
        except self.errors.in_steps as error:
            raise self.errors.step_error(error) from error

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Do nothing: the next step's `kv_len` says what is valid."""

    def copy_blocks(self, pairs: list[tuple[int, int]], num_tokens: int | None = None) -> None:
        kv, plan = self.kv, self.planned.plan
        for source, destination in pairs:
            if min(source, destination) < 0 or max(source, destination) >= plan.num_blocks:
                noun = "slot" if plan.layout == "slot" else "block"
                raise Fatal(f"cannot copy {noun} {source} to {destination}: there are {plan.num_blocks}")
        with self.errors.step():
            for source, destination in pairs:
                self.copy(kv, source, destination, num_tokens)

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        """Refuse it: overridden by a runner that declares LoRA."""
        raise CapacityExceeded(f"adapter slot {slot}, rank {weights.rank}: the {self.name} runner declares no LoRA")

    def drop_adapter(self, slot: int) -> None:
        """Do nothing: no adapter is there."""

    def suspend(self) -> None:
        while self._tickets:
            self._tickets[0].cancel()
        self._kv = None

    def resume(self) -> None:
        model, planned = self.model, self.planned
        self.suspend()  # the old memory goes before the new one comes
        with self.errors.step():
            self._kv = self.allocate(model, planned)

    def stats(self) -> dict[str, float]:
        """Return the number of `steps` and `tokens` so far."""
        return {"steps": float(self._num_steps), "tokens": float(self._num_tokens)}

    def close(self) -> None:
        self.suspend()
        self._planned = None
        self._model = None


def plan_kv(
    spec: ModelSpec,
    limit: KVLimit,
    *,
    layouts: Layouts = ("slot",),
    dtypes: Sequence[KVDtype] = (),
    bytes_per_token: int = 0,
    step: int = 1,
) -> KVPlan:
    """The most that `limit` allows and all its sequences can use, in its layout.

    A token takes `bytes_per_token` (0 is float32), and room is taken for a multiple of `step` tokens. Raises
    `CapacityExceeded` when not even one sequence of `max_context` fits, `Fatal` for a layout that is not among
    `layouts` or a type that is not among `dtypes`.
    """
    if limit.layout not in layouts:
        raise Fatal(f"KV layout {limit.layout!r} was asked for; this runner declares {', '.join(layouts)}")
    if limit.dtype != "auto" and limit.dtype not in dtypes:
        raise Fatal(f"KV as {limit.dtype} was asked for; this runner declares {', '.join(dtypes) or 'no choice'}")
    context = context_of(spec, limit)
    block_tokens = context if limit.layout == "slot" else BLOCK_TOKENS
    blocks_each = -(-context // block_tokens) if block_tokens > 0 else 0
    bytes_per_block = -(-block_tokens // step) * step * (bytes_per_token or spec.kv_bytes_per_token)
    num_blocks = min(limit.max_sequences * blocks_each, limit.max_bytes // bytes_per_block) if blocks_each > 0 else 0
    if num_blocks < max(1, blocks_each):
        raise CapacityExceeded(
            f"one sequence of {context} tokens needs {blocks_each * bytes_per_block / 1e6:.1f} MB of KV memory and "
            f"{limit.max_bytes / 1e6:.1f} MB are allowed; raise kv_cache_mb or lower max_context"
        )
    return KVPlan(
        layout=limit.layout, num_blocks=num_blocks, block_tokens=block_tokens, bytes_per_block=bytes_per_block
    )


def context_of(spec: ModelSpec, limit: KVLimit) -> int:
    """Tokens that one sequence may hold under `limit`."""
    return min(limit.max_context, spec.max_context)
