"""The two contracts of Hostelry, on one page.

`Backend` is request level: all that the gateway sees. A remote upstream implements it directly.
`Runner` is step level: the part for a tensor library. The engine gives it batching, streaming, cancellation and
accounting, and turns it into a `Backend`. Requests and events are in `backends.generation`, errors in
`backends.errors`, the checks of a step in `backends.steps`.

Version 1: fields and methods may be added with defaults that mean "off"; nothing here is removed or changes its
meaning. `hostelry runner check NAME` checks a runner against this page; `docs/write-a-backend.md` walks through it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from backends.generation import Event, GenerateRequest
from backends.kv import KVChoice, KVDtype, KVLayout

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from backends.models.spec import ModelSpec
    from backends.weights.tensor import TensorSource

    I32 = npt.NDArray[np.int32]
    I64 = npt.NDArray[np.int64]
    F32 = npt.NDArray[np.float32]

API_VERSION = 1


def __getattr__(name: str) -> object:
    """`I32`, `I64` and `F32`, made for the runner that imports them: the gateway reads this page without numpy."""
    if name not in ("I32", "I64", "F32"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np
    import numpy.typing as npt

    arrays: dict[str, object] = {
        "I32": npt.NDArray[np.int32],
        "I64": npt.NDArray[np.int64],
        "F32": npt.NDArray[np.float32],
    }
    return arrays[name]


class BackendCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that a backend can serve for its model."""

    max_context: int
    """Prompt and completion of one request, in tokens."""
    chat: bool
    """True if there is a chat template; without one, only text and token prompts are served."""
    adapters: bool = False


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `Backend.health`, from cached state.

    `detail` is a sentence for operators, `progress` goes from 0 to 1 while the model loads, and `fallbacks` list
    options that were configured and are not available, such as a device.
    """

    ready: bool
    detail: str = ""
    progress: float = 1.0
    fallbacks: tuple[str, ...] = ()


@runtime_checkable
class Backend(Protocol):
    """Serves one model to the gateway. All methods run on the gateway's event loop and never block it."""

    def capabilities(self) -> BackendCapabilities:
        """Changes nothing. Valid once `health().ready`; constant from then on."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Yield `Started`, then any number of `Delta`s, perhaps none, then exactly one `Done` or `Failed`.

        May be called at any time and many times at once. Raises a `RequestError` at the first step if the request is
        rejected (`Overloaded` also while the backend is not ready); nothing was accepted then. A backend
        that reports the prompt's length in `Started` computes nothing before the next event is requested. Closing
        the iterator early cancels the request, and its resources are free within one engine step.
        The same happens when `deadline_at` passes; it ends in `Failed` with code `deadline_exceeded` then, or raises
        `DeadlineExceeded` if nothing was accepted yet.
        """
        ...

    def health(self) -> Health:
        """Changes nothing, never waits, may be called at any time, also after `aclose` (then not ready)."""
        ...

    async def aclose(self) -> None:
        """Release everything; running requests end in `Failed`. May be called twice. Raises nothing."""
        ...


class RunnerCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Declared once; read by the engine and by the conformance kit. Undeclared means unsupported and refused."""

    kv_layouts: tuple[KVLayout, ...]
    """The first is the default."""
    formats: tuple[str, ...]
    """Weight formats that `load` takes, by the names of `backends.weights.formats`; resident as stored."""
    ragged_steps: bool = True
    """Several sequences may bring different numbers of new tokens in one step."""
    max_verify_rows: int = 1
    """Most logit rows one sequence may ask for in a step; > 1 allows speculative verification."""
    lora_max_rank: int = 0
    lora_slots: int = 0
    """Most adapters that are resident at once; 0 means no LoRA."""
    lora_targets: tuple[str, ...] = ()
    """Names of linears within a layer: `q`, `k`, `v`, `o`, `gate`, `up`, `down`."""
    lora_formats: tuple[str, ...] = ()
    """Formats of base weights beside which adapters work."""
    kv_dtypes: tuple[KVDtype, ...] = ()
    """Allowed values of `KVLimit.dtype`, besides `auto`."""
    device_sampling: bool = False
    """`Step.sampling` is honoured, and token ids of the step before need not come back to the host."""
    async_depth: int = 1
    """How many tickets may be outstanding."""
    scattered_slots: bool = True
    """A step costs the same whichever slots it names. False, where it pays for those in between as well."""
    deterministic: bool = False
    """The same step on the same state gives the same bits."""


class LoadableModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model opened and checked: every tensor lies inside its file and has the shape that `spec` implies."""

    spec: ModelSpec
    tensors: TensorSource


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner tells after `load`; sizes in bytes. `lora_shapes`: canonical linear → (output, input) features."""

    vocab_size: int
    max_context: int
    num_layers: int
    weight_bytes: int
    lora_shapes: dict[str, tuple[int, int]] = {}
    device: str = "cpu"
    """Description for people: `cpu, 2 threads`, `cuda, NVIDIA H100` …"""
    notes: tuple[str, ...] = ()
    """Choices worth an operator's attention."""
    fallbacks: tuple[str, ...] = ()
    """Options that were configured or available and could not be used, one sentence each: these are reported loudly."""


class KVLimit(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of KV memory for a plan. The runner may plan less, never more.

    `layout` and `dtype` are among those that it declares; with `auto` the runner chooses.
    """

    max_bytes: int
    max_sequences: int
    max_context: int
    """Maximum number of tokens of one sequence."""
    layout: KVLayout = "slot"
    dtype: KVChoice = "auto"


class KVPlan(msgspec.Struct, frozen=True, kw_only=True):
    """KV memory as allocated. Slot layout: `num_blocks` slots of `block_tokens` tokens, one a sequence.

    Paged layout: a sequence of n tokens holds ceil(n / block_tokens) blocks, which others may share.
    """

    layout: KVLayout
    num_blocks: int
    block_tokens: int
    bytes_per_block: int
    dtype: str = ""
    """Data type of keys and values, for people."""


class RowSampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the runner picks a token for each of the R logit rows: temperature, min_p, top_k, top_p, in this order.

    float32 `temperature[R]` (0 is greedy; ties take the lowest id), `min_p[R]` (0 is off), `top_p[R]` (1 is off),
    int32 `top_k[R]` (0 is off), float64 `uniform[R]` in [0, 1): the token is the smallest id whose cumulative
    probability, in the order of ids, exceeds it. The engine draws `uniform`, so a runner needs no randomness.
    """

    temperature: F32
    min_p: F32
    top_k: I32
    top_p: F32
    uniform: npt.NDArray[np.float64]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One ragged batch of S sequences and T new tokens, int32 unless said; R rows want logits.

    `token_ids[T]` int64, `positions[T]`; sequence s owns tokens `q_start[s]:q_start[s+1]` (`q_start[S+1]`) and has
    `kv_len[s]` tokens of KV *after* this step. `slot[S]` (slot layout) or `block_table[S, W]` with
    `slot_map[T]` (paged: flat index of each new token's KV). `lora[S]` is an adapter slot or -1. `logit_rows[R]`
    indexes into T, ascending. S ≥ 1 and every sequence brings at least one token; R may be 0.

    With `sampling` (only where `device_sampling` is declared) the result holds token ids instead of logits, and a
    token id of -1 - r stands for the token that row r of the step submitted before this one picked.
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
    sampling: RowSampling | None = None

    @property
    def num_sequences(self) -> int:
        return len(self.kv_len)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


class StepResult(msgspec.Struct, frozen=True):
    """Result of a step. In the order of `Step.logit_rows`: float32 `logits[R, vocab]`.

    Of a step with `sampling`: `logits[0, vocab]` and int64 `token_ids[R]`, -1 where the logits were not finite. The
    arrays are valid until the next `submit` or `collect`.
    """

    logits: F32
    token_ids: I64 | None = None


class Ticket(Protocol):
    """A submitted step. Opaque; collected once or cancelled."""

    def cancel(self) -> None:
        """Drop the result; may be called twice. The KV written by the step is undefined; the engine overwrites it."""
        ...


class AdapterWeights(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter: canonical linear → (A float32 `[rank, in]`, B float32 `[out, rank]`); W x + scale * B (A x)."""

    rank: int
    scale: float
    matrices: dict[str, tuple[F32, F32]]


class Runner(Protocol):
    """Runs steps of one model on one device. Called from one thread; never from the event loop.

    Life: `capabilities` → `load` → `plan_memory` → `warmup` → (`submit`, `collect`)* → `close`. A method called out of
    this order raises `Fatal`. Step errors are typed: `CapacityExceeded`, `Retryable`, `Fatal` (see `backends.errors`);
    KV of sequences that the failed step did not name stays intact.
    """

    def capabilities(self) -> RunnerCapabilities:
        """Changes nothing and allocates nothing. Constant; may be called at any time, also before `load`."""
        ...

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        """Take the weights as stored; call `progress` with 0 to 1, rising, now and then.

        Replaces what was loaded before, KV and adapters included. The files may be gone afterwards. Raises
        `UnsupportedModel` for a format or feature that is not declared, never widening silently, and `ModelError`
        where memory does not suffice; nothing is loaded then.
        """
        ...

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        """Allocate KV within `limit`, after `load`; replaces an earlier plan.

        Raises `CapacityExceeded`, with the sizes, when not even one sequence fits.
        """
        ...

    def warmup(self) -> None:
        """Run what makes the first request as fast as later ones. Leaves no KV behind that is ever read."""
        ...

    def submit(self, step: Step) -> Ticket:
        """Start a step. At most `async_depth` tickets are outstanding; the step's arrays may be reused on return.

        Writes KV at the step's positions and nowhere else. A step that breaks the rules of `Step` raises `Fatal`
        (`CapacityExceeded` for a sequence longer than planned) before anything is written.
        """
        ...

    def collect(self, ticket: Ticket) -> StepResult:
        """Wait for the step and return its result, empty for R = 0.

        Each ticket is collected at most once, in the order of `submit`, and not after `cancel`; else `Fatal`. An
        error of the step itself may come from here as well as from `submit`.
        """
        ...

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Keep the first `num_tokens` of a slot's KV (after a rejected draft); later ones are never read.

        Called with no outstanding ticket. In the paged layout, the block table says all, and this is not called.
        """
        ...

    def copy_blocks(self, pairs: list[tuple[int, int]], num_tokens: int | None = None) -> None:
        """Copy whole KV blocks or slots, (source, destination) one after the other; an empty list does nothing.

        With `num_tokens`, only that many tokens from the beginning of each are needed; whether more are copied is the
        runner's choice. Called with no outstanding ticket; done before the next step reads. Raises `Fatal` for a block
        out of range.
        """
        ...

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        """Make an adapter usable as `Step.lora == slot` from the next step, replacing what was there.

        Raises `CapacityExceeded` for a rank, target, slot or shape beyond what is declared; other slots are untouched.
        """
        ...

    def drop_adapter(self, slot: int) -> None:
        """Free an adapter slot; no outstanding step uses it. Nothing happens if it is empty."""
        ...

    def suspend(self) -> None:
        """Give memory back while idle; KV is lost, weights and adapters are not. `resume` before the next step."""
        ...

    def resume(self) -> None:
        """Allocate KV again as planned, holding nothing that was there. Raises `CapacityExceeded`."""
        ...

    def stats(self) -> dict[str, float]:
        """Numbers for operators, by name; cheap, may be called between any two steps after `load`."""
        ...

    def close(self) -> None:
        """Free everything. May be called twice, and `load` may follow. Raises nothing."""
        ...
