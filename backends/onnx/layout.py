"""From the packed tokens of a `Step` to rows by slot, as `GroupQueryAttention` wants them."""

from __future__ import annotations

import msgspec
import numpy as np

from backends.api import I32, I64, Step


class Layout(msgspec.Struct, frozen=True):
    """Index arrays of one step; B rows are slots 0…highest used, S is the longest row. Names as in `graph`."""

    num_rows: int
    pad_idx: I64
    unpad_idx: I64
    seqlens: I32
    qsl: I32
    longest: int


def lay_out(step: Step) -> Layout:
    """Idle slots get no new tokens; what their padding gathers is never read."""
    slots = step.slot.astype(np.int64)
    counts = np.diff(step.q_start)
    longest, num_rows = int(counts.max()), int(slots.max()) + 1
    offsets = np.arange(step.num_tokens) - np.repeat(step.q_start[:-1], counts)
    unpad_idx = np.repeat(slots, counts) * longest + offsets
    pad_idx = np.zeros(num_rows * longest, np.int64)
    pad_idx[unpad_idx] = np.arange(step.num_tokens)
    seqlens = np.zeros(num_rows, np.int32)
    seqlens[slots] = step.kv_len - 1
    qsl = np.zeros(num_rows, np.int32)
    qsl[slots] = counts
    return Layout(num_rows, pad_idx, unpad_idx, seqlens, qsl, longest)
