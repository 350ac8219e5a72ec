"""Pads the packed tokens of a `Step` to rows at fixed addresses.

Rows are padded to the longest one around attention. One long chunk among many one-token rows would pad all of them
to its length: such chunks run by themselves.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from backends.api import I32, I64, Step

Array = npt.NDArray[np.generic]


class Buffer:
    """Memory for arrays of one type. `generation` changes when the address does."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self.dtype = dtype
        self.generation = 0
        self._room: Array = np.empty(0, dtype)

    @property
    def address(self) -> int:
        return self._room.ctypes.data

    def view(self, *shape: int) -> Array:
        """The first elements as an array of this shape; earlier contents are kept only if the memory sufficed."""
        size = math.prod(shape)
        if size > len(self._room):
            self._room = np.empty(max(size, 2 * len(self._room)), self.dtype)
            self.generation += 1
        return self._room[:size].reshape(shape)


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
    """Indices (`pad_idx[num_rows, S]`: packed token at each position, `unpad_idx[T]`: position of each packed token).

    Sequence s with its `counts[s]` tokens is row `rows[s]`. Positions without a token name token 0.
    """
    longest = int(counts.max())
    starts = np.cumsum(counts) - counts
    numbers = np.arange(int(counts.sum()))
    # Row start in the padded batch, less the start in the packed one: added to a packed index, it gives the padded.
    unpad_idx = numbers + np.repeat(rows * longest - starts, counts)
    pad_idx = np.zeros(num_rows * longest, np.int64)
    pad_idx[unpad_idx] = numbers
    return pad_idx.reshape(num_rows, longest), unpad_idx


_MAX_PADDED_ROWS = 2048
"""Bounds the scratch memory of a run. With 123 million weights on two cores, one run was up to 23 % faster at 250 to
800 padded rows, several were 3 to 26 % faster at 3,900."""
_LONG = 32
"""Tokens from which on a sequence may run by itself: one-token rows and verified drafts stay together."""


def split(step: Step) -> list[tuple[Step, I64]]:
    """(step of some sequences, positions of its logit rows in those of the whole); usually one, the step itself."""
    counts = np.diff(step.q_start)
    first, end = slot_range(step)
    if (end - first) * int(counts.max()) <= _MAX_PADDED_ROWS or step.num_sequences == 1:
        return [(step, np.arange(len(step.logit_rows)))]
    is_long = counts >= _LONG
    groups = [np.flatnonzero(~is_long), *np.flatnonzero(is_long).reshape(-1, 1)]
    return [_part(step, sequences) for sequences in groups if len(sequences)]


def _part(step: Step, sequences: I64) -> tuple[Step, I64]:
    counts = np.diff(step.q_start)
    owner = np.repeat(np.arange(step.num_sequences), counts)
    is_ours = np.isin(owner, sequences)
    new_index = np.cumsum(is_ours) - 1
    rows = np.flatnonzero(is_ours[step.logit_rows])
    part = Step(
        token_ids=step.token_ids[is_ours],
        positions=step.positions[is_ours],
        q_start=np.concatenate([[0], np.cumsum(counts[sequences])]).astype(np.int32),
        kv_len=step.kv_len[sequences],
        slot=step.slot[sequences],
        logit_rows=new_index[step.logit_rows[rows]].astype(np.int32),
        lora=step.lora[sequences],
    )
    return part, rows
