"""From the packed tokens of a `Step` to rows by slot, as `GroupQueryAttention` wants them."""

from __future__ import annotations

import msgspec
import numpy as np

from backends.api import I32, I64, Step


class Layout(msgspec.Struct, frozen=True):
    """Index arrays of one run, named as in `graph`.

    The B rows are the slots `first_slot`, `first_slot` + 1 … up to the last one used; S is the longest row. A slot in
    between that is idle brings no new tokens, and what its padding gathers is never read.
    """

    first_slot: int
    num_rows: int
    longest: int
    pad_idx: I64
    unpad_idx: I64
    seqlens: I32
    qsl: I32


def slot_range(step: Step) -> tuple[int, int]:
    """(first slot used, last one used + 1)."""
    return int(step.slot.min()), int(step.slot.max()) + 1


def lay_out(step: Step) -> Layout:
    first, end = slot_range(step)
    rows = step.slot.astype(np.int64) - first
    num_rows = end - first
    counts = np.diff(step.q_start)
    longest = int(counts.max())
    seqlens = np.zeros(num_rows, np.int32)
    seqlens[rows] = step.kv_len - 1
    qsl = np.zeros(num_rows, np.int32)
    qsl[rows] = counts
    numbers = np.arange(step.num_tokens)
    # Row start in the padded batch, less the start in the packed one: added to a packed index, it gives the padded.
    unpad_idx = numbers + np.repeat(rows * longest - step.q_start[:-1], counts)
    pad_idx = np.zeros(num_rows * longest, np.int64)
    pad_idx[unpad_idx] = numbers
    return Layout(first, num_rows, longest, pad_idx, unpad_idx, seqlens, qsl)
