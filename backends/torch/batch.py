"""From the numpy arrays of a `Step` to what its layers compute with, once for all of them."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor

from backends.api import I32, I64, Step
from backends.torch.pool import Blocks, Pool

_MAX_QUERIES = 256
"""Queries of one attention call: bounds its mask, and spares the keys that lie after the last of them."""


class Span(msgspec.Struct, frozen=True):
    """Neighbouring new tokens of one sequence: `tokens` of the step see the first `num_keys` of its blocks.

    `mask` is float32 `[tokens, num_keys]`, 0 or -inf; None where all keys are seen, or where tokens and keys are
    the same and the mask is the plain causal one.
    """

    tokens: slice
    blocks: Blocks
    num_keys: int
    mask: Tensor | None = None

    @property
    def num_queries(self) -> int:
        return int(self.tokens.stop - self.tokens.start)


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One step on the device; int64 `[T]` except `cos` and `sin`, float32 `[T, 1, head_dim]`, and `logit_rows[R]`."""

    token_ids: Tensor
    slot_map: Tensor
    logit_rows: Tensor
    cos: Tensor
    sin: Tensor
    spans: tuple[Span, ...]


def block_table(step: Step, pool: Pool) -> I32:
    """`[S, W]` block numbers; with slots, the slot is the only block."""
    if not pool.is_paged:
        return step.slot[:, None]
    assert step.block_table is not None  # `check_step` saw to it
    return step.block_table


def flat_indices(step: Step, pool: Pool) -> I64:
    """`[T]`: where each new token's keys and values belong, by block table and position."""
    owner = np.repeat(np.arange(step.num_sequences), np.diff(step.q_start))
    column, offset = np.divmod(step.positions.astype(np.int64), pool.block_tokens)
    indices: I64 = block_table(step, pool)[owner, column].astype(np.int64) * pool.block_tokens + offset
    return indices


def make_batch(step: Step, pool: Pool, frequencies: Tensor) -> Batch:
    """`frequencies`: float64 `[head_dim / 2]` on the pool's device, radians a position. The step was checked."""
    positions = torch.from_numpy(step.positions.astype(np.float64)).to(pool.device)
    angles = positions[:, None] * frequencies
    cos, sin = angles.cos().float(), angles.sin().float()
    return Batch(
        token_ids=_to_device(step.token_ids, pool.device),
        slot_map=_to_device(flat_indices(step, pool), pool.device),
        logit_rows=_to_device(step.logit_rows, pool.device),
        cos=torch.cat((cos, cos), dim=1).unsqueeze(1),
        sin=torch.cat((-sin, sin), dim=1).unsqueeze(1),
        spans=tuple(span for s in range(step.num_sequences) for span in _spans(step, s, pool)),
    )


def _spans(step: Step, sequence: int, pool: Pool) -> list[Span]:
    start, end = step.q_start[sequence : sequence + 2].tolist()
    offset = int(step.kv_len[sequence]) - end  # index in the step + offset = position
    table = block_table(step, pool)[sequence]
    cuts = range(start, end, _MAX_QUERIES)
    return [_span(slice(cut, min(cut + _MAX_QUERIES, end)), offset, table, pool) for cut in cuts]


def _span(tokens: slice, offset: int, table: I32, pool: Pool) -> Span:
    num_keys = tokens.stop + offset
    num_queries = tokens.stop - tokens.start
    blocks = _blocks(table[: -(-num_keys // pool.block_tokens)], pool.device)
    if num_queries in (1, num_keys):
        return Span(tokens, blocks, num_keys)
    mask = torch.full((num_queries, num_keys), -torch.inf, device=pool.device).triu_(num_keys - num_queries + 1)
    return Span(tokens, blocks, num_keys, mask)


def _blocks(numbers: I32, device: torch.device) -> Blocks:
    first = int(numbers[0])
    if np.array_equal(numbers, np.arange(first, first + len(numbers))):
        return slice(first, first + len(numbers))
    return _to_device(numbers, device)


def _to_device(array: I32 | I64, device: torch.device) -> Tensor:
    """A copy as int64: the caller may reuse its array."""
    return torch.from_numpy(array.astype(np.int64)).to(device)
