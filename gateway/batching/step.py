"""Converts planned chunks to the arrays of a `Step`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import msgspec
import numpy as np

from backends.api import I32, RowSampling, Step
from backends.steps import flat_indices
from gateway.batching.adapter_slots import AdapterSlots
from gateway.batching.kv.allocator import KVAllocator
from gateway.batching.scheduler import Chunk


def assemble(
    chunks: list[Chunk],
    kv: KVAllocator,
    adapters: AdapterSlots,
    sampling: RowSampling | None = None,
    *,
    rows_before: Mapping[int, int] | None = None,
) -> Step:
    """Step of these chunks in order, at least one; with logits, or tokens picked by `sampling`, as `rows_of` says.

    `rows_before`: sequence → row of the step submitted before that picks its next token, which is not known yet.
    """
    ends = list(accumulate(chunk.num_tokens for chunk in chunks))
    token_ids: list[int] = []
    positions: list[int] = []
    logit_rows: list[int] = []
    for end, chunk in zip(ends, chunks, strict=True):
        token_ids += chunk.sequence.token_ids[chunk.start : chunk.end]
        if chunk.end > chunk.sequence.num_known:
            token_ids.append(-1 - (rows_before or {})[chunk.sequence.id])
        positions += range(chunk.start, chunk.end)
        logit_rows += [end - chunk.end + position for position in rows_of(chunk)]
    places = [kv.blocks_of(chunk.sequence.id) for chunk in chunks]
    step = Step(
        token_ids=np.array(token_ids, dtype=np.int64),
        positions=np.array(positions, dtype=np.int32),
        q_start=np.array([0, *ends], dtype=np.int32),
        kv_len=np.array([chunk.end for chunk in chunks], dtype=np.int32),
        slot=np.array([own[0] for own in places], dtype=np.int32),
        logit_rows=np.array(logit_rows, dtype=np.int32),
        lora=np.array([adapters.slot_of(chunk.sequence.adapter) for chunk in chunks], dtype=np.int32),
        sampling=sampling,
    )
    return step if kv.block_tokens is None else _paged(step, places, kv.block_tokens)


def _paged(step: Step, places: list[list[int]], block_tokens: int) -> Step:
    width = max(map(len, places))
    table: I32 = np.array([own + [0] * (width - len(own)) for own in places], dtype=np.int32)
    return msgspec.structs.replace(step, block_table=table, slot_map=flat_indices(step, table, block_tokens))


def rows_of(chunk: Chunk) -> list[int]:
    """Positions of a sequence whose logits its chunk needs: those that score the prompt, then the one to sample."""
    return [*chunk.scored, chunk.end - 1] if chunk.samples else list(chunk.scored)
