"""From planned chunks to the arrays of a `Step`."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from backends.api import Step
from gateway.batching.blocks import KVRooms
from gateway.batching.scheduler import Chunk

_NO_ADAPTER = -1


def assemble(chunks: list[Chunk], rooms: KVRooms) -> Step:
    """Chunks in order, at least one; logits are asked for where a chunk reaches the last known token."""
    ends = list(accumulate(chunk.num_tokens for chunk in chunks))
    token_ids: list[int] = []
    positions: list[int] = []
    for chunk in chunks:
        token_ids += chunk.sequence.token_ids[chunk.start : chunk.end]
        positions += range(chunk.start, chunk.end)
    return Step(
        token_ids=np.array(token_ids, dtype=np.int64),
        positions=np.array(positions, dtype=np.int32),
        q_start=np.array([0, *ends], dtype=np.int32),
        kv_len=np.array([chunk.end for chunk in chunks], dtype=np.int32),
        slot=np.array([rooms.slot_of(chunk.sequence.id) for chunk in chunks], dtype=np.int32),
        logit_rows=np.array(
            [end - 1 for end, chunk in zip(ends, chunks, strict=True) if chunk.samples], dtype=np.int32
        ),
        lora=np.full(len(chunks), _NO_ADAPTER, dtype=np.int32),
    )
