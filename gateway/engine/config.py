"""Engine settings: the keys of `[[models]]` that reach an engine, and the limits of its queue.

A new engine setting is one field here, its use, and its line in `docs/reference.md`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from backends.kv import KVChoice, KVLayoutChoice

Positive = Annotated[int, Meta(ge=1, le=2**40)]
Scheduling = Literal["fair", "fcfs"]


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one engine, carried whole by the configuration file and by the `Load` message."""

    device: Annotated[str, Meta(pattern=r"^[a-z0-9:]{1,32}$")] = "auto"
    """Device of the backend: one of those that it documents; `auto` takes the best available one."""
    max_batch: Annotated[int, Meta(ge=1, le=1024)] = 16
    max_context: Positive | None = None
    max_step_tokens: Annotated[int, Meta(ge=16, le=65536)] = 256
    max_waiting: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    max_waiting_per_tenant: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Default is half of `max_waiting`, so that one tenant alone cannot fill the queue."""
    ttft_target_s: Annotated[float, Meta(gt=0, le=86_400)] = 30.0
    """Seconds; a request that would wait longer than this for its first token is rejected."""
    kv_cache_mb: Positive = 4096
    kv_dtype: KVChoice = "auto"
    """Data type of keys and values; `auto` leaves it to the backend."""
    kv_layout: KVLayoutChoice = "auto"
    """One slot for each sequence, or blocks as they are needed; `auto` leaves it to the backend."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Compute threads; 0 means one a physical core."""
    scheduling: Scheduling = "fair"
    """Admission order: `fair` (least-served tenant first, by weight) or `fcfs` (first come, first served)."""
    prefix_cache: bool = True
    """Keep what was computed for prompts, and reuse it for prompts with the same prefix; never across tenants."""
    max_decode_slowdown: Annotated[float, Meta(ge=0, le=1000)] = 3.0
    """Largest factor by which prefill may lengthen a step while other sequences decode; 0 sets no limit."""
    exact: bool = False
    """Compute quantized weights with fp32 activations: slower, the engine's reference path."""

    @property
    def queue_per_tenant(self) -> int:
        """Most requests of one tenant that may wait."""
        return self.max_waiting_per_tenant or max(1, self.max_waiting // 2)

    @property
    def step_tokens(self) -> int:
        """Most tokens in one step; every sequence of a full batch gets at least one."""
        return max(self.max_step_tokens, self.max_batch)

    @property
    def kv_bytes(self) -> int:
        """Most bytes for keys and values."""
        return self.kv_cache_mb * 1024 * 1024
