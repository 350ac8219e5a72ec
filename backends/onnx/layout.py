"""From the packed tokens of a `Step` to padded rows, as attention wants them."""

from __future__ import annotations

import msgspec
import numpy as np

from backends.api import I32, I64, Step


class Layout(msgspec.Struct, frozen=True):
    """Index arrays of one run, named as in `fused`.

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
    seqlens = np.zeros(num_rows, np.int32)
    seqlens[rows] = step.kv_len - 1
    qsl = np.zeros(num_rows, np.int32)
    qsl[rows] = counts
    pad_idx, unpad_idx = pad(rows, counts, num_rows=num_rows)
    return Layout(first, num_rows, pad_idx.shape[1], pad_idx.reshape(-1), unpad_idx, seqlens, qsl)


def pad(rows: I64, counts: I64, *, num_rows: int) -> tuple[I64, I64]:
    """(`pad_idx[num_rows, S]`: packed token at each place, `unpad_idx[T]`: place of each packed token).

    Sequence s with its `counts[s]` tokens is row `rows[s]`. Places without a token name token 0.
    """
    longest = int(counts.max())
    starts = np.cumsum(counts) - counts
    numbers = np.arange(int(counts.sum()))
    # Row start in the padded batch, less the start in the packed one: added to a packed index, it gives the padded.
    unpad_idx = numbers + np.repeat(rows * longest - starts, counts)
    pad_idx = np.zeros(num_rows * longest, np.int64)
    pad_idx[unpad_idx] = numbers
    return pad_idx.reshape(num_rows, longest), unpad_idx
