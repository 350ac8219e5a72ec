"""Vocabulary of the batching loop: sequences to add, their outputs, and gauges. The engine sends these as they are."""

from __future__ import annotations

import msgspec

from backends.generation import Sampling, Share


class Add(msgspec.Struct, frozen=True, tag="add", kw_only=True, omit_defaults=True):
    """Start a sequence. `id` is chosen by the client and unique while the engine runs; `seed` is always set."""

    id: int
    token_ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    seed: int
    stop_token_ids: tuple[int, ...] = ()
    share: Share = Share()
    adapter: str | None = None
    prompt_logprobs: int | None = None
    deadline_s: float | None = None
    """Seconds, from when it was sent, within which the whole response is wanted; the gateway aborts late ones."""


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Reason why a sequence ended without a finish reason: an error code of the API, and a sentence for the caller."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


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
    error: Failure | None = None
    cached_tokens: int = 0
    prompt_logprobs: tuple[Logprob, ...] = ()
    """Log-probabilities of the prompt's tokens from the second on, all at once, with the first output."""
    queued_s: float = 0.0
    """Seconds from arrival to the first step that computed it; set in the first output, 0 in later ones."""


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
    """Sequences that were preempted, for memory or for a tenant that ran nothing."""
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache."""
    adapter_hits: int = 0
    """Sequences whose adapter was already in a slot of the runner."""
    adapter_loads: int = 0
    """Adapters loaded into a slot for a sequence."""
