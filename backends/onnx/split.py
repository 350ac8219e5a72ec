"""Cuts a step in which padding would cost too much into several runs of the graph.

Rows are padded to the longest one around attention. One long chunk among many one-token rows would pad all of them
to its length: such chunks run by themselves.
"""

from __future__ import annotations

import numpy as np

from backends.api import I64, Step
from backends.onnx.layout import slot_range

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
