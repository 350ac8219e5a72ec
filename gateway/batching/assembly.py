"""From planned chunks to the arrays of a `Step`."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from backends.api import RowSampling, Step
from gateway.batching.blocks import KVRooms
from gateway.batching.scheduler import Chunk

_NO_ADAPTER = -1


def assemble(chunks: list[Chunk], rooms: KVRooms, sampling: RowSampling | None = None) -> Step:
    """Chunks in order, at least one; logits, or tokens picked by `sampling`, are asked for as `rows_of` says."""
    ends = list(accumulate(chunk.num_tokens for chunk in chunks))
    token_ids: list[int] = []
    positions: list[int] = []
    logit_rows: list[int] = []
    for end, chunk in zip(ends, chunks, strict=True):
        token_ids += chunk.sequence.token_ids[chunk.start : chunk.end]
        positions += range(chunk.start, chunk.end)
        logit_rows += [end - chunk.end + position for position in rows_of(chunk)]
    return Step(
        token_ids=np.array(token_ids, dtype=np.int64),
        positions=np.array(positions, dtype=np.int32),
        q_start=np.array([0, *ends], dtype=np.int32),
        kv_len=np.array([chunk.end for chunk in chunks], dtype=np.int32),
        slot=np.array([rooms.slot_of(chunk.sequence.id) for chunk in chunks], dtype=np.int32),
        logit_rows=np.array(logit_rows, dtype=np.int32),
        lora=np.full(len(chunks), _NO_ADAPTER, dtype=np.int32),
        sampling=sampling,
    )


def rows_of(chunk: Chunk) -> list[int]:
    """Positions of a sequence whose logits its chunk asks for: those that score the prompt, then the one to sample."""
    return [*chunk.scored, chunk.end - 1] if chunk.samples else list(chunk.scored)
