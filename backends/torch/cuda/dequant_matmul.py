"""Products straight from quantized blocks: values are formed in registers and never written. Not verified on a GPU yet.

Checked under Triton's interpreter and compiled offline for sm_90. Sums are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.torch.cuda.block_values import values
from backends.torch.matrix import TorchMatrix

GROUP = 32
VECTOR_ROWS, VECTOR_GROUPS = 8, 16
"""Rows of the matrix and groups of 32 columns that a program of `multiply_vector` processes at once."""
TILE_OUTPUTS, TILE_GROUPS = 64, 2
TILE_TOKENS = (16, 64)
"""The fewest rows that a tensor core takes, and enough to use the decoded weights well."""


def times(x: Tensor, matrix: TorchMatrix) -> Tensor:
    """x @ Wᵀ: `[T, columns]` of any float type → `[T, rows]` of the same type."""
    x = x.contiguous()
    y = torch.empty(len(x), matrix.num_rows, dtype=x.dtype, device=x.device)
    fields = [*matrix.fields, *[matrix.fields[0]] * (5 - len(matrix.fields))]
    sizes = {"ROWS": matrix.num_rows, "GROUPS": matrix.num_columns // GROUP, "FORMAT": matrix.ggml_type}
    if len(x) == 1:
        multiply_vector[(triton.cdiv(matrix.num_rows, VECTOR_ROWS),)](
            y, x, *fields, **sizes, TILE_ROWS=VECTOR_ROWS, TILE_GROUPS=VECTOR_GROUPS
        )
    elif len(x):
        tile_tokens = TILE_TOKENS[len(x) > TILE_TOKENS[0]]
        tiles = {"TILE_TOKENS": tile_tokens, "TILE_ROWS": TILE_OUTPUTS, "TILE_GROUPS": TILE_GROUPS}
        multiply_tile[triton.cdiv(matrix.num_rows, TILE_OUTPUTS), triton.cdiv(len(x), tile_tokens)](
            y, x, *fields, len(x), **sizes, **tiles
        )
    return y


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def multiply_vector(  # type: ignore[no-untyped-def]  # a kernel's values are Triton's
    out,
    x,
    f0,
    f1,
    f2,
    f3,
    f4,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    FORMAT: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
):
    row = (tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)).to(tl.int64)
    e = tl.arange(0, 32)[None, None, :]
    total = tl.zeros((TILE_ROWS,), tl.float32)
    for start in range(0, GROUPS, TILE_GROUPS):
        group = start + tl.arange(0, TILE_GROUPS)
        at = row[:, None, None] * GROUPS + group[None, :, None]
        mask = (row < ROWS)[:, None, None] & (group < GROUPS)[None, :, None]
        weights = values(f0, f1, f2, f3, f4, at, e, mask, FORMAT)
        column = group[None, :, None] * 32 + e
        inputs = tl.load(x + column, mask=(group < GROUPS)[None, :, None], other=0.0).to(tl.float32)
        total += tl.sum(tl.sum(weights * inputs, 2), 1)
    tl.store(out + row, total.to(out.dtype.element_ty), mask=row < ROWS)


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def multiply_tile(  # type: ignore[no-untyped-def]  # a kernel's values are Triton's
    out,
    x,
    f0,
    f1,
    f2,
    f3,
    f4,
    num_tokens,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    FORMAT: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
):
    row = (tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)).to(tl.int64)
    token = (tl.program_id(1) * TILE_TOKENS + tl.arange(0, TILE_TOKENS)).to(tl.int64)
    e = tl.arange(0, 32)[None, None, :]
    total = tl.zeros((TILE_TOKENS, TILE_ROWS), tl.float32)
    for start in range(0, GROUPS, TILE_GROUPS):
        group = start + tl.arange(0, TILE_GROUPS)
        at = row[:, None, None] * GROUPS + group[None, :, None]
        mask = (row < ROWS)[:, None, None] & (group < GROUPS)[None, :, None]
        weights = tl.reshape(values(f0, f1, f2, f3, f4, at, e, mask, FORMAT), (TILE_ROWS, TILE_GROUPS * 32))
        column = start * 32 + tl.arange(0, TILE_GROUPS * 32)
        inside = (token < num_tokens)[:, None] & (column < GROUPS * 32)[None, :]
        inputs = tl.load(x + token[:, None] * (GROUPS * 32) + column[None, :], mask=inside, other=0.0)
        # With float32 inputs, three products of TF32 parts: as exact as float32, on tensor cores.
        total += tl.dot(inputs, tl.trans(weights.to(inputs.dtype)), input_precision="tf32x3")
    inside = (token < num_tokens)[:, None] & (row < ROWS)[None, :]
    tl.store(out + token[:, None] * ROWS + row[None, :], total.to(out.dtype.element_ty), mask=inside)
