"""Everything that crosses between gateway and engine process: small closed structs, msgpack, no text.

Frames are a 4-byte little-endian length and one message. `ToEngine` and `FromEngine` are the two unions.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from backends.generation import Sampling
from backends.kv import KVChoice, KVLayoutChoice

MAX_FRAME_BYTES = 64 * 1024 * 1024
Scheduling = Literal["fair", "fcfs"]
_LENGTH = struct.Struct("<I")


class AdapterFile(msgspec.Struct, frozen=True):
    """A LoRA adapter to read beside the model."""

    name: str
    path: str


class Load(msgspec.Struct, frozen=True, tag="load", kw_only=True):
    """First message: which model to load and how. The engine answers `Progress`…, then `Ready` or `LoadFailed`."""

    model_path: str
    runner: str
    max_batch: int
    max_context: int | None
    max_step_tokens: int
    kv_bytes: int
    threads: int
    exact: bool = False
    device: str = "auto"
    kv_dtype: KVChoice = "auto"
    kv_layout: KVLayoutChoice = "auto"
    scheduling: Scheduling = "fair"
    prefix_cache: bool = True
    prefill_stretch: float = 0.0
    adapters: tuple[AdapterFile, ...] = ()


class Add(msgspec.Struct, frozen=True, tag="add", kw_only=True, omit_defaults=True):
    """Start a sequence. `id` is chosen by the client and unique while the engine lives; `seed` is always set."""

    id: int
    token_ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    seed: int
    stop_token_ids: tuple[int, ...] = ()
    tenant: str = "default"
    weight: float = 1.0
    priority: int = 0
    adapter: str | None = None
    prompt_logprobs: int | None = None
    prefix_scope: str = ""
    """Who shares what is computed for the prompt; empty, the tenant alone."""
    deadline_s: float | None = None
    """Seconds within which the whole answer is wanted, from when it was sent; the gateway aborts what is late."""


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Forget a sequence; no more `Output` for it. Unknown ids are ignored (it may just have ended)."""

    id: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Finish nothing more and exit with status 0."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    stage: str
    fraction: float


class Ready(msgspec.Struct, frozen=True, tag="ready", kw_only=True):
    """The model is loaded and warm. `max_context` is what one sequence may hold, prompt and output together."""

    vocab_size: int
    max_context: int
    max_sequences: int
    weight_bytes: int
    kv_bytes: int
    device: str
    kv_tokens: int = 0
    """Tokens whose keys and values fit into memory, over all sequences."""
    runner: str = ""
    reason: str = ""
    """Why this runner, if it was not asked for by name."""
    eos_token_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    """What was asked for or is there and could not be had."""
    adapters: tuple[str, ...] = ()
    """Names that `Add.adapter` may say."""


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """The model cannot be served; the engine exits. `message` names file, tensor and what was expected."""

    message: str


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability of the sampled token and of the best alternatives, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Output(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of one sequence. With `finish_reason` or `error` set, it is the last one.

    A stop token that ended the sequence is the last entry of `token_ids`; it is counted, never shown.
    """

    id: int
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...] = ()
    finish_reason: str | None = None
    error: str | None = None
    cached_tokens: int = 0
    prompt_logprobs: tuple[Logprob, ...] = ()
    """Of the prompt's tokens from the second on, all at once, with the first output."""
    queued_s: float = 0.0
    """From arrival to the first step that computed it; with the first output, 0 in later ones."""


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """Gauges and totals since the start of the engine."""

    running: int
    waiting: int
    steps: int
    batched_sequences: int
    """Sum over steps of sequences in the step."""
    prefill_tokens: int
    generated_tokens: int
    kv_tokens: int
    step_time_s: float
    preempted: int = 0
    """Sequences that were sent back to wait, for memory or for a tenant that ran nothing."""
    cached_tokens: int = 0
    """Prompt tokens that the prefix cache had."""
    adapter_hits: int = 0
    """Sequences that found their adapter in a slot of the runner."""
    adapter_loads: int = 0
    """Adapters that were brought into a slot for one."""


class Stepped(msgspec.Struct, frozen=True, tag="stepped"):
    """One message a step, for all of its sequences; also sent without outputs when gauges changed."""

    outputs: tuple[Output, ...]
    stats: EngineStats


class Died(msgspec.Struct, frozen=True, tag="died"):
    """The engine met a fatal error and exits with a non-zero status."""

    message: str


ToEngine = Load | Add | Abort | Stop
FromEngine = Progress | Ready | LoadFailed | Stepped | Died

_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: ToEngine | FromEngine) -> bytes:
    """One message as a frame, length first."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Cuts a byte stream back into message bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes and return the bodies that are complete. Raises `ValueError` on an absurd length."""
        self._buffer += data
        bodies: list[bytes] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return bodies
