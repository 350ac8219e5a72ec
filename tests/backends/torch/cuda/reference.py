"""Attention as the definition has it, and random pages to run it on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from backends.api import I32
from backends.torch.cuda.paged_attention import Pages, attend
from backends.torch.cuda.tiles import choose_tiling, cut_tiles


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """`new` and `kv`: for each sequence, its new tokens and all its tokens."""

    new: tuple[int, ...]
    kv: tuple[int, ...]
    heads: int
    kv_heads: int
    head_dim: int
    block_tokens: int = 16
    softcap: float = 0.0
    window: int = 0
    splits: int = 1
    shared_blocks: int = 0
    """Blocks at the head of every sequence that are the same blocks for all."""

    @property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)


def compare(shape: Shape, device: torch.device, dtype: torch.dtype, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(What the kernel says, what the definition says), float32 `[T, heads, head_dim]` on the CPU.

    Whatever is no sequence's key or value is NaN; block numbers that no key needs are nonsense.
    """
    noise = torch.Generator().manual_seed(seed)
    tables, num_blocks = _tables(shape, np.random.default_rng(seed))
    pool_shape = (num_blocks, shape.block_tokens, shape.kv_heads, shape.head_dim)
    keys, values = (torch.randn(pool_shape, generator=noise).to(dtype) for _ in range(2))
    _poison(keys, values, tables, shape)
    q_start = np.cumsum([0, *shape.new]).astype(np.int32)
    queries = torch.randn(int(q_start[-1]), shape.heads, shape.head_dim, generator=noise).to(dtype)
    pages = _pages(shape, q_start, tables, device, dtype)
    found = attend(
        queries.to(device),
        keys.to(device),
        values.to(device),
        pages,
        scale=shape.scale,
        softcap=shape.softcap,
        window=shape.window,
    )
    parts = zip(queries.split_with_sizes(shape.new), tables, shape.kv, strict=True)
    wanted = [_attend(q, *_rows(keys, values, table, kv), shape) for q, table, kv in parts]
    return found.float().cpu(), torch.cat(wanted)


def _tables(shape: Shape, rng: np.random.Generator) -> tuple[list[list[int]], int]:
    """Blocks of each sequence, scattered over a pool with some to spare."""
    counts = [-(-kv // shape.block_tokens) for kv in shape.kv]
    blocks = rng.permutation(sum(counts) + 3).tolist()
    shared = [blocks.pop() for _ in range(shape.shared_blocks)]
    return [[*shared, *(blocks.pop() for _ in range(count - len(shared)))] for count in counts], sum(counts) + 3


def _poison(keys: Tensor, values: Tensor, tables: Sequence[Sequence[int]], shape: Shape) -> None:
    """Only what a sequence holds stays; the tails of last blocks and free blocks become NaN."""
    held = torch.zeros(keys.shape[:2], dtype=torch.bool)
    for table, kv in zip(tables, shape.kv, strict=True):
        for position in range(kv):
            held[table[position // shape.block_tokens], position % shape.block_tokens] = True
    keys[~held] = values[~held] = float("nan")


def _pages(
    shape: Shape,
    q_start: I32,
    tables: list[list[int]],
    device: torch.device,
    dtype: torch.dtype,
) -> Pages:
    group = shape.heads // shape.kv_heads
    tiling = choose_tiling(max(shape.new), group=group, head_dim=shape.head_dim, element_size=dtype.itemsize)
    sequence, query = cut_tiles(q_start, tile_queries=tiling.rows // group)
    widest = max(len(table) for table in tables) + 1
    padded = np.array([table + [-9] * (widest - len(table)) for table in tables], np.int32)
    return Pages(
        q_start=torch.from_numpy(q_start).to(device),
        kv_len=torch.tensor(shape.kv, dtype=torch.int32, device=device),
        table=torch.from_numpy(np.ascontiguousarray(padded.T)).to(device).t(),
        tile_sequence=torch.from_numpy(sequence).to(device),
        tile_query=torch.from_numpy(query).to(device),
        tile_rows=tiling.rows,
        splits=shape.splits,
    )


def _rows(keys: Tensor, values: Tensor, table: list[int], kv: int) -> tuple[Tensor, Tensor]:
    return keys[table].flatten(0, 1)[:kv], values[table].flatten(0, 1)[:kv]


def _attend(queries: Tensor, keys: Tensor, values: Tensor, shape: Shape) -> Tensor:
    group = shape.heads // shape.kv_heads
    k, v = (tensor.double().repeat_interleave(group, dim=1) for tensor in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", queries.double(), k) * shape.scale
    if shape.softcap:
        scores = shape.softcap * torch.tanh(scores / shape.softcap)
    distance = torch.arange(len(k) - len(queries), len(k))[:, None] - torch.arange(len(k))
    seen = (distance >= 0) & (distance < (shape.window or len(k)))
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, v).float()
