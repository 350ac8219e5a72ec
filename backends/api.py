"""The two contracts of Hostelry, on one page.

`Backend` is request level: all that the gateway sees. A remote upstream implements it directly.
`Runner` is step level: what a tensor library writes. The engine gives it batching, streaming, cancellation and
accounting, and turns it into a `Backend`. Requests and events are in `backends.generation`, errors in
`backends.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Literal, Protocol, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from backends.generation import Event, GenerateRequest
from backends.models.spec import ModelSpec
from backends.weights.tensor import TensorSource

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


class BackendCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What requests a backend can serve for its model."""

    max_context: int
    chat: bool
    adapters: bool = False
    embeddings: bool = False


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `Backend.health`, from cached state; `detail` is for operators."""

    ready: bool
    detail: str = ""
    progress: float = 1.0


@runtime_checkable
class Backend(Protocol):
    """Serves one model to the gateway. All methods run on the gateway's event loop and never block it."""

    def capabilities(self) -> BackendCapabilities:
        """Valid once `health().ready`; constant from then on."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Yield `Started`, then `Delta`s, then exactly one `Done` or `Failed`.

        Raises a `RequestError` at the first step if the request is refused; nothing was accepted then. Closing the
        iterator early cancels the request, and its resources are free within one engine step.
        """
        ...

    def health(self) -> Health: ...

    async def aclose(self) -> None:
        """Release everything; running requests end in `Failed`. May be called twice."""
        ...


class RunnerCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Declared once; read by the router and by the conformance kit. Undeclared means unsupported and refused."""

    kv_layouts: tuple[Literal["slot", "paged"], ...]
    formats: tuple[str, ...]
    ragged_steps: bool = True
    """Several sequences may bring different numbers of new tokens in one step."""
    max_verify_rows: int = 1
    """Most logit rows one sequence may ask for in a step; > 1 allows speculative verification."""
    lora_max_rank: int = 0
    lora_slots: int = 0
    lora_targets: tuple[str, ...] = ()
    lora_formats: tuple[str, ...] = ()
    device_sampling: bool = False
    async_depth: int = 1
    """How many tickets may be outstanding."""
    deterministic: bool = False
    """The same step on the same state gives the same bits."""


class LoadableModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model opened and checked: every tensor lies inside its file and has the shape that `spec` implies."""

    spec: ModelSpec
    tensors: TensorSource


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner tells after `load`. `lora_shapes`: target name → (output, input) features."""

    vocab_size: int
    max_context: int
    num_layers: int
    weight_bytes: int
    lora_shapes: dict[str, tuple[int, int]] = {}
    device: str = "cpu"
    notes: tuple[str, ...] = ()
    """Choices worth an operator's attention, such as a fallback."""


class KVLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine wants of KV memory. The runner may plan less, never more."""

    max_bytes: int
    max_sequences: int
    max_context: int
    """Tokens of one sequence, at most."""


class KVPlan(msgspec.Struct, frozen=True, kw_only=True):
    """KV memory as allocated. Slot layout: `num_blocks` slots of `block_tokens` tokens, one a sequence."""

    layout: Literal["slot", "paged"]
    num_blocks: int
    block_tokens: int
    bytes_per_block: int
    adapter_bytes: int = 0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One ragged batch of S sequences and T new tokens, int32 unless said; R rows want logits.

    `token_ids[T]` int64, `positions[T]`; sequence s owns tokens `q_start[s]:q_start[s+1]` (`q_start[S+1]`) and has
    `kv_len[s]` tokens of KV *after* this step. `slot[S]` (slot layout) or `block_table[S, W]` with
    `slot_map[T]` (paged: flat index of each new token's KV). `lora[S]` is an adapter slot or -1. `logit_rows[R]`
    indexes into T. S ≥ 1 and every sequence brings at least one token.
    """

    token_ids: I64
    positions: I32
    q_start: I32
    kv_len: I32
    slot: I32
    logit_rows: I32
    lora: I32
    block_table: I32 | None = None
    slot_map: I32 | None = None

    @property
    def num_sequences(self) -> int:
        return len(self.kv_len)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


class StepResult(msgspec.Struct, frozen=True):
    """`logits[R, vocab]` float32 in the order of `Step.logit_rows`; valid until the next `submit`."""

    logits: F32


class Ticket(Protocol):
    """A submitted step. Opaque; collected once or cancelled."""

    def cancel(self) -> None:
        """Drop the result. The KV written by the step is undefined; the engine overwrites it."""
        ...


class AdapterWeights(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter: canonical linear name → (A `[rank, in]`, B `[out, rank]`) float32; the product is scaled."""

    rank: int
    scale: float
    matrices: dict[str, tuple[F32, F32]]


class Runner(Protocol):
    """Runs steps of one model on one device. Called from one thread; never from the event loop.

    Life: `capabilities` → `load` → `plan_memory` → `warmup` → (`submit`, `collect`)* → `close`.
    Step errors are typed: `CapacityExceeded`, `Retryable`, `Fatal` (see `backends.errors`); KV of sequences that
    the failed step did not name stays intact.
    """

    def capabilities(self) -> RunnerCapabilities:
        """Constant; may be called before `load` and must not allocate."""
        ...

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        """Take the weights as stored; call `progress` with 0…1 now and then.

        Raises `UnsupportedModel` for a format or feature that is not declared; never widens silently.
        """
        ...

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        """Allocate KV within `limit`. Raises `CapacityExceeded` when not even one sequence fits."""
        ...

    def warmup(self) -> None:
        """Run what makes the first request as fast as later ones. Leaves no KV behind that is ever read."""
        ...

    def submit(self, step: Step) -> Ticket:
        """Start a step. At most `async_depth` tickets are outstanding; arrays may be reused after return."""
        ...

    def collect(self, ticket: Ticket) -> StepResult:
        """Wait for the step and return its logits. Each ticket is collected at most once, in submit order."""
        ...

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Keep the first `num_tokens` of a sequence's KV (after a rejected draft); later ones are never read."""
        ...

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole KV blocks or slots, (source, destination) in order, before the next step."""
        ...

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        """Make an adapter usable as `Step.lora == slot` from the next step. Raises `CapacityExceeded`."""
        ...

    def drop_adapter(self, slot: int) -> None:
        """Free an adapter slot; no outstanding step uses it."""
        ...

    def suspend(self) -> None:
        """Give memory back while idle; KV is lost. `resume` before the next step."""
        ...

    def resume(self) -> None: ...

    def stats(self) -> dict[str, float]:
        """Numbers for operators; cheap, may be called between any two steps."""
        ...

    def close(self) -> None:
        """Free everything. May be called twice."""
        ...
