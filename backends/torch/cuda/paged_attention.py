"""Attention of new tokens over paged keys and values, in Triton. Not verified on a GPU yet.

One kernel serves decode, prefill, chunks and verification. A program takes one tile of rows and one key head: all the
query heads that share the key head, of as many adjacent queries as fit, so that keys are read once for all of
them (the softmax is FlashAttention-2's, arXiv:2307.08691). Where there are few tiles, the keys of each are split over
several programs whose partial results a second kernel merges (Flash-Decoding).

Only keys that a query of the tile may see are ever loaded: other contents of a block, NaN included, have no influence.
The slot layout is one block a sequence. Under Triton's interpreter a product of bf16 tiles is wrong; float16 and
float32 are right.
"""

from __future__ import annotations

import math

import msgspec
import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.torch.cuda.tiles import MAX_SPLITS, Tiling

_EVERYTHING = 2**30
"""Window without a limit: more than any context."""


class Pages(msgspec.Struct, frozen=True, kw_only=True):
    """Positions of the S sequences of a step; int32 on the device.

    Sequence s owns queries `q_start[s]:q_start[s+1]` (`q_start[S+1]`) and keys 0 to `kv_len[s]`, new ones included, in
    the blocks of row s of `table[S, W]`, of any strides. A sequence of one query and no key is padding, and its output
    is zero. Tile n has queries of sequence `tile_sequence[n]` from its `tile_query[n]`th on, `tile_rows` rows of
    (query, head of the group); see `backends.torch.cuda.tiles`. Keys are split
    over 1 to `MAX_SPLITS` programs.
    """

    q_start: Tensor
    kv_len: Tensor
    table: Tensor
    tile_sequence: Tensor
    tile_query: Tensor
    tile_rows: int
    splits: int = 1


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, pages: Pages, *, scale: float, softcap: float = 0.0, window: int = 0
) -> Tensor:
    """Causal attention: contiguous `[T, heads, head_dim]` → the same, of the queries' type, summed in float32.

    `keys`, `values`: contiguous `[num_blocks, block_tokens, kv_heads, head_dim]`, of the queries' type, new tokens
    written. Scores are products times `scale`, then `softcap * tanh(score / softcap)` unless it is 0. Token i sees
    tokens i - window < j ≤ i, or all before it if `window` is 0.
    """
    num_tokens, heads, head_dim = queries.shape
    shape = Tiling(pages.tile_rows, head_dim, queries.element_size())
    out = torch.empty_like(queries)
    rows = num_tokens * heads * (pages.splits if pages.splits > 1 else 0)
    part_out, part_max, part_sum = (
        torch.empty(size, dtype=torch.float32, device=queries.device) for size in (rows * head_dim, rows, rows)
    )
    grid = (len(pages.tile_sequence), keys.shape[2], pages.splits)
    attend_tile[grid](
        out,
        part_out,
        part_max,
        part_sum,
        queries,
        keys,
        values,
        pages.table,
        pages.kv_len,
        pages.q_start,
        pages.tile_sequence,
        pages.tile_query,
        *pages.table.stride(),
        window or _EVERYTHING,
        pages.splits,
        scale,
        softcap,
        HEADS=heads,
        KV_HEADS=keys.shape[2],
        HEAD_DIM=head_dim,
        PADDED_DIM=shape.padded_dim,
        BLOCK_TOKENS=keys.shape[1],
        TILE_ROWS=shape.rows,
        TILE_KEYS=shape.keys,
        IS_SPLIT=pages.splits > 1,
        HAS_SOFTCAP=softcap != 0.0,
        num_warps=shape.num_warps,
        num_stages=2,
    )
    if pages.splits > 1:
        merge_splits[num_tokens * heads,](
            out,
            part_out,
            part_max,
            part_sum,
            pages.splits,
            HEAD_DIM=head_dim,
            PADDED_DIM=shape.padded_dim,
            MAX_SPLITS=MAX_SPLITS,
        )
    return out


_VARYING = [
    "table",
    "kv_len",
    "q_start",
    "tile_sequence",
    "tile_query",
    "row_stride",
    "column_stride",
    "window",
    "splits",
]
"""Arguments whose alignment or divisibility must not cause another compilation."""
_LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def tanh(x):  # type: ignore[no-untyped-def]  # a kernel's values are Triton's
    """Triton's language has none. No exponent is positive, so nothing overflows."""
    faded = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - faded) / (1.0 + faded)
    return tl.where(x < 0, -size, size)


@triton.jit(do_not_specialize=_VARYING)  # type: ignore[untyped-decorator]  # Triton has no types
def attend_tile(  # type: ignore[no-untyped-def]  # a kernel's values are Triton's
    out,
    part_out,
    part_max,
    part_sum,
    queries,
    keys,
    values,
    table,
    kv_len,
    q_start,
    tile_sequence,
    tile_query,
    row_stride,
    column_stride,
    window,
    splits,
    scale,
    softcap,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
):
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = HEADS // KV_HEADS
    tile_queries: tl.constexpr = TILE_ROWS // group

    sequence = tl.load(tile_sequence + tile)
    first = tl.load(tile_query + tile)
    start = tl.load(q_start + sequence)
    num_queries = tl.load(q_start + sequence + 1) - start
    computed = tl.load(kv_len + sequence) - num_queries  # the position of the sequence's first query

    row = tl.arange(0, TILE_ROWS)
    query = first + row // group
    position = computed + query
    is_row = (row < tile_queries * group) & (query < num_queries)
    column = tl.arange(0, PADDED_DIM)
    is_column = column < HEAD_DIM
    head_row = (start + query) * HEADS + kv_head * group + row % group
    is_element = is_row[:, None] & is_column[None, :]
    q = tl.load(queries + head_row[:, None] * HEAD_DIM + column[None, :], mask=is_element, other=0.0)

    # [seen, end): keys that some query of the tile sees; this program's share of them is [low, high).
    seen = tl.maximum(computed + first - window + 1, 0)
    end = computed + tl.minimum(first + tile_queries, num_queries)
    share = tl.cdiv(tl.cdiv(end - seen, splits), TILE_KEYS) * TILE_KEYS
    low = seen + split * share
    high = tl.minimum(low + share, end)

    top = tl.full((TILE_ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((TILE_ROWS,), tl.float32)
    summed = tl.zeros((TILE_ROWS, PADDED_DIM), tl.float32)
    for base in range(low, high, TILE_KEYS):
        key = base + tl.arange(0, TILE_KEYS)
        is_key = key < high
        block = tl.load(table + sequence * row_stride + key // BLOCK_TOKENS * column_stride, mask=is_key, other=0)
        place = block.to(tl.int64) * BLOCK_TOKENS + key % BLOCK_TOKENS
        offset = (place * KV_HEADS + kv_head)[:, None] * HEAD_DIM + column[None, :]
        is_loaded = is_key[:, None] & is_column[None, :]
        k = tl.load(keys + offset, mask=is_loaded, other=0.0)
        v = tl.load(values + offset, mask=is_loaded, other=0.0)

        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if HAS_SOFTCAP:
            scores = softcap * tanh(scores / softcap)
        distance = position[:, None] - key[None, :]
        is_seen = is_key[None, :] & (distance >= 0) & (distance < window)
        scores = tl.where(is_seen, scores * _LOG2_E, float("-inf"))

        new_top = tl.maximum(top, tl.max(scores, 1))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)  # a row that has seen nothing yet
        weights = tl.exp2(scores - shift[:, None])
        fade = tl.exp2(top - shift)
        total = total * fade + tl.sum(weights, 1)
        summed = summed * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = new_top

    if IS_SPLIT:
        part = head_row * splits + split
        tl.store(part_out + part[:, None] * HEAD_DIM + column[None, :], summed, mask=is_element)
        tl.store(part_max + part, top, mask=is_row)
        tl.store(part_sum + part, total, mask=is_row)
    else:
        mean = summed / tl.where(total == 0.0, 1.0, total)[:, None]
        element = head_row[:, None] * HEAD_DIM + column[None, :]
        tl.store(out + element, mean.to(out.dtype.element_ty), mask=is_element)


@triton.jit(do_not_specialize=["splits"])  # type: ignore[untyped-decorator]  # Triton has no types
def merge_splits(  # type: ignore[no-untyped-def]  # a kernel's values are Triton's
    out,
    part_out,
    part_max,
    part_sum,
    splits,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """One program for each (token, head)."""
    row = tl.program_id(0)
    split = tl.arange(0, MAX_SPLITS)
    part = row * splits + split
    column = tl.arange(0, PADDED_DIM)
    is_split, is_column = split < splits, column < HEAD_DIM
    tops = tl.load(part_max + part, mask=is_split, other=float("-inf"))
    top = tl.max(tops, 0)
    weights = tl.exp2(tops - tl.where(top == float("-inf"), 0.0, top))
    total = tl.sum(weights * tl.load(part_sum + part, mask=is_split, other=0.0), 0)
    is_element = is_split[:, None] & is_column[None, :]
    parts = tl.load(part_out + part[:, None] * HEAD_DIM + column[None, :], mask=is_element, other=0.0)
    mean = tl.sum(parts * weights[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out + row * HEAD_DIM + column, mean.to(out.dtype.element_ty), mask=is_column)
