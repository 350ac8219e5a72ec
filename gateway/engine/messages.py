"""Messages between gateway and engine process: small closed structs, msgpack, no text.

Frames are a 4-byte little-endian length and one message. `ToEngine` and `FromEngine` are the two unions.
"""

from __future__ import annotations

import struct

import msgspec

from adapters.ref import AdapterRef
from gateway.batching.messages import Add, EngineStats, Output
from gateway.engine.config import EngineConfig

MAX_FRAME_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct("<I")


class Load(msgspec.Struct, frozen=True, tag="load", kw_only=True):
    """First message: which model to load and how. The engine sends `Progress`…, then `Ready` or `LoadFailed`."""

    model_path: str
    runner: str
    """Name of the runner, or `auto`."""
    engine: EngineConfig
    adapters: tuple[AdapterRef, ...] = ()


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Forget a sequence; no more `Output` for it. Unknown ids are ignored (it may just have ended)."""

    id: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Exit with status 0 without finishing anything."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    stage: str
    fraction: float


class Ready(msgspec.Struct, frozen=True, tag="ready", kw_only=True):
    """Sent when the model is loaded and warm. `max_context` is the most of prompt and output of one sequence."""

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
    """Reason for the choice of this runner, if it was not configured by name."""
    eos_token_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    """Options that were configured or available and could not be used."""
    adapters: tuple[str, ...] = ()
    """Names accepted in `Add.adapter`."""


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """Sent when the model cannot be served; the engine exits. `message` names file, tensor and what was expected."""

    message: str


class Stepped(msgspec.Struct, frozen=True, tag="stepped"):
    """One message a step, for all of its sequences; also sent without outputs when gauges changed."""

    outputs: tuple[Output, ...]
    stats: EngineStats


class Died(msgspec.Struct, frozen=True, tag="died"):
    """Sent on a fatal error; the engine exits with a non-zero status."""

    message: str


ToEngine = Load | Add | Abort | Stop
FromEngine = Progress | Ready | LoadFailed | Stepped | Died

_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: ToEngine | FromEngine) -> bytes:
    """One message as a frame, length first."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Splits a byte stream into message bodies."""

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
