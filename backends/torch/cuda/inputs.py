"""A step's arrays on their way to the device: one flat int32 array, one copy. Plain NumPy but for the last step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Generic, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from backends.api import I32, KVPlan, Step
from backends.steps import flat_indices, wanted_rows
from backends.torch.cuda.tiles import cut_tiles

Array = TypeVar("Array", I32, Tensor)
_ALIGNMENT = 4
"""Every array begins at a multiple of 16 bytes."""


class StepArrays(msgspec.Struct, Generic[Array], frozen=True):
    """int32, on the host or on the device, in the words of `backends.api.Step` and `Pages`; `slot_map` -1: padding.

    `table_columns[W, S]` holds a block's number for all sequences side by side and comes last: a step that uses fewer
    blocks than were allocated is a shorter flat array.
    """

    token_ids: Array
    positions: Array
    slot_map: Array
    logit_rows: Array
    kv_len: Array
    q_start: Array
    tile_sequence: Array
    tile_query: Array
    table_columns: Array

    def __iter__(self) -> Iterator[Array]:
        return (getattr(self, name) for name in self.__struct_fields__)


HostStep = StepArrays[I32]
DeviceStep = StepArrays[Tensor]


def starts(step: HostStep) -> list[int]:
    """Start of each array in the flat one, and the end of the last."""
    lengths = [-(-array.size // _ALIGNMENT) * _ALIGNMENT for array in step]
    return [0, *accumulate(lengths)]


def step_arrays(step: Step, plan: KVPlan, *, tile_queries: int) -> HostStep:
    """The step was checked. Blocks that no sequence uses are left out of the table."""
    if plan.layout == "paged":
        assert step.block_table is not None  # `check_step` saw to it
        table = step.block_table[:, : -(-int(step.kv_len.max()) // plan.block_tokens)]
    else:
        table = step.slot[:, None]
    sequence, query = cut_tiles(step.q_start, tile_queries=tile_queries)
    return StepArrays(
        token_ids=step.token_ids.astype(np.int32),
        positions=step.positions,
        slot_map=flat_indices(step, table, plan.block_tokens),
        logit_rows=wanted_rows(step),
        kv_len=step.kv_len,
        q_start=step.q_start,
        tile_sequence=sequence,
        tile_query=query,
        table_columns=np.ascontiguousarray(table.T),
    )


def pad_decode(step: HostStep, num_rows: int) -> HostStep:
    """Decode step filled up to `num_rows` sequences; the added ones have no tokens and write nothing."""
    width, used = step.table_columns.shape
    table = np.zeros((width, num_rows), np.int32)
    table[:, :used] = step.table_columns
    edges = np.arange(num_rows + 1, dtype=np.int32)
    return StepArrays(
        token_ids=_filled(step.token_ids, num_rows, 0),
        positions=_filled(step.positions, num_rows, 0),
        slot_map=_filled(step.slot_map, num_rows, -1),
        logit_rows=edges[:-1],
        kv_len=_filled(step.kv_len, num_rows, 0),
        q_start=edges,
        tile_sequence=edges[:-1],
        tile_query=np.zeros(num_rows, np.int32),
        table_columns=table,
    )


def padding(num_rows: int, num_columns: int) -> HostStep:
    """Decode step of padding only, with a table of `num_columns` blocks for each of its rows."""
    none, table = np.zeros(0, np.int32), np.zeros((num_columns, 0), np.int32)
    return pad_decode(StepArrays(none, none, none, none, none, none, none, none, table), num_rows)


def resolve(token_ids: Tensor, picked: Tensor | None) -> None:
    """Put `picked[r]`, int64 on the device, where -1 - r stands, or 0 where nothing was picked."""
    if picked is not None and len(picked):
        tokens = picked[(-1 - token_ids).clamp_(min=0)].clamp_(min=0)
        token_ids.copy_(torch.where(token_ids < 0, tokens, token_ids))


def upload(step: HostStep, device: torch.device, *, into: Tensor | None = None) -> Tensor:
    """The flat tensor on `device`, or the head of `into`; without waiting, where the device has pinned memory.

    Pinned memory comes from torch's caching allocator, which hands it out again only when the copy is done.
    """
    host = torch.empty(starts(step)[-1], dtype=torch.int32, pin_memory=device.type == "cuda")
    flat = host.numpy()
    for array, start in zip(step, starts(step), strict=False):
        flat[start : start + array.size] = array.ravel()
    if into is None:
        return host.to(device, non_blocking=True)
    into[: len(host)].copy_(host, non_blocking=True)
    return into


def on_device(step: HostStep, flat: Tensor) -> DeviceStep:
    """Views of the arrays in `flat`, which has or will have their contents."""
    return StepArrays(
        *(flat[start:][: array.size].view(array.shape) for array, start in zip(step, starts(step), strict=False))
    )


def _filled(array: I32, length: int, value: int) -> I32:
    out = np.full(length, value, np.int32)
    out[: len(array)] = array
    return out
