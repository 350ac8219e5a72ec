"""Converts the numpy arrays of a `Step` to the inputs of its layers, once for all of them."""

from __future__ import annotations

import mlx.core as mx
import msgspec
import numpy as np

from backends.api import I32, Step
from backends.models.rotary import rotary_amplitude, rotary_frequencies
from backends.models.spec import ModelSpec, Rope
from backends.steps import flat_indices, wanted_rows

MlxRotation = tuple[mx.array, mx.array]
"""(cos, sin), each float32 `[T, 1, head_dim / 2]`."""


class MlxSpan(msgspec.Struct, frozen=True):
    """New tokens of one sequence: `tokens` of the step see the rows `keys` of the pool.

    `mask` is bool `[tokens, keys]`; None where all keys are seen.
    """

    tokens: slice
    keys: slice
    mask: mx.array | None = None


class MlxBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One step: int64 `token_ids[T]`, rows `places[T]` of the pool, `logit_rows[R]`; spans by window."""

    token_ids: mx.array
    places: mx.array
    logit_rows: mx.array
    rotations: dict[Rope, MlxRotation]
    spans: dict[int, tuple[MlxSpan, ...]]


def make_batch(step: Step, spec: ModelSpec, *, slot_tokens: int) -> MlxBatch:
    """The step was checked. Everything is copied: the caller may reuse its arrays."""
    layers = range(spec.num_layers)
    return MlxBatch(
        token_ids=mx.array(step.token_ids),
        places=mx.array(flat_indices(step, step.slot[:, None], slot_tokens)),
        logit_rows=mx.array(wanted_rows(step)),
        rotations={rope: _rotation(step.positions, rope, spec) for rope in {spec.rope(layer) for layer in layers}},
        spans={window: _spans(step, slot_tokens, window) for window in {spec.window(layer) for layer in layers}},
    )


def _rotation(positions: I32, rope: Rope, spec: ModelSpec) -> MlxRotation:
    angles = positions[:, None, None] * rotary_frequencies(rope, spec.head_dim)
    amplitude = rotary_amplitude(rope)
    cos, sin = amplitude * np.cos(angles), amplitude * np.sin(angles)
    return mx.array(cos.astype(np.float32)), mx.array(sin.astype(np.float32))


def _spans(step: Step, slot_tokens: int, window: int) -> tuple[MlxSpan, ...]:
    starts, ends = step.q_start[:-1].tolist(), step.q_start[1:].tolist()
    rows = zip(starts, ends, step.kv_len.tolist(), step.slot.tolist(), strict=True)
    return tuple(_span(slice(start, end), kv_len, slot * slot_tokens, window) for start, end, kv_len, slot in rows)


def _span(tokens: slice, kv_len: int, base: int, window: int) -> MlxSpan:
    num_tokens = tokens.stop - tokens.start
    first = max(0, kv_len - num_tokens + 1 - window) if window else 0
    keys = slice(base + first, base + kv_len)
    if num_tokens == 1:
        return MlxSpan(tokens, keys)
    queries = np.arange(kv_len - num_tokens, kv_len)[:, None]
    seen = np.arange(first, kv_len)[None]
    mask = seen <= queries
    mask = mask & (seen > queries - window) if window else mask
    return MlxSpan(tokens, keys, mx.array(mask))  # ty: ignore[invalid-argument-type]  # mlx's stubs leave NumPy out
