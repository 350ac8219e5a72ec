"""The small steps between matrix products, one Triton kernel each. Not verified on a GPU yet.

At one token a step these are all launches and no work, so each is a single one. All compute in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.torch.cuda.paged_attention import tanh


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, dtype: torch.dtype) -> Tensor:
    """RMSNorm over the last axis of `[T, columns]`, whose rows may have any stride; `weight` float32 `[columns]`."""
    return _norm(x, None, weight, eps, dtype)[0]


def add_rms_norm(
    branch: Tensor, residual: Tensor, weight: Tensor, eps: float, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(RMSNorm of the sum as `dtype`, the sum as float32) of `[T, columns]`; `residual` is float32."""
    return _norm(branch, residual, weight, eps, dtype)


def _norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    total = out if residual is None else torch.empty(x.shape, dtype=torch.float32, device=x.device)
    columns = x.shape[1]
    norm_row[len(x),](
        out,
        total,
        x,
        residual,
        weight,
        eps,
        COLUMNS=columns,
        ROW_STRIDE=x.stride(0),
        PADDED=triton.next_power_of_2(columns),
        HAS_RESIDUAL=residual is not None,
        num_warps=8 if columns > 2048 else 4,
    )
    return out, total


def rotate_and_store(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    slot_map: Tensor,
    keys: Tensor,
    values: Tensor,
    norm: Tensor | None,
    eps: float,
) -> Tensor:
    """Write the rotated keys and the values of `[T, (heads + 2 kv_heads) * head_dim]`; return the rotated queries.

    `cos`, `sin`: float32 `[T, head_dim / 2]`; half-split rotation. `slot_map`: int32 `[T]`, flat index into the first
    two axes of `keys` and `values`; a token with -1 is padding and is not written. `norm`: float32
    `[heads + kv_heads, head_dim]`, weights of an RMSNorm over each head before rotation.
    """
    num_tokens, kv_heads, head_dim = len(qkv), keys.shape[2], keys.shape[3]
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    queries = torch.empty(num_tokens, heads, head_dim, dtype=keys.dtype, device=qkv.device)
    rotate_head[num_tokens, heads + 2 * kv_heads](
        queries,
        keys,
        values,
        qkv,
        norm,
        cos,
        sin,
        slot_map,
        eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        PADDED_HALF=triton.next_power_of_2(head_dim // 2),
        HAS_NORM=norm is not None,
        num_warps=1,
    )
    return queries


def gated(gate_up: Tensor, *, gelu: bool) -> Tensor:
    """activation(gate) * up of contiguous `[T, 2 ffn]`, gate first: `[T, ffn]`; SiLU, or GELU by tanh."""
    num_tokens, width = gate_up.shape
    out = torch.empty(num_tokens, width // 2, dtype=gate_up.dtype, device=gate_up.device)
    gate_row[num_tokens, triton.cdiv(width // 2, GATE_BLOCK)](
        out, gate_up, FFN=width // 2, BLOCK=GATE_BLOCK, GELU=gelu, num_warps=4
    )
    return out


GATE_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def norm_row(  # type: ignore[no-untyped-def]  # a kernel's values are Triton's
    out,
    total,
    x,
    residual,
    weight,
    eps,
    COLUMNS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)
    inside = column < COLUMNS
    value = tl.load(x + row * ROW_STRIDE + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        value += tl.load(residual + row * COLUMNS + column, mask=inside, other=0.0)
        tl.store(total + row * COLUMNS + column, value, mask=inside)
    factor = tl.rsqrt(tl.sum(value * value, 0) / COLUMNS + eps)
    normed = value * factor * tl.load(weight + column, mask=inside, other=0.0)
    tl.store(out + row * COLUMNS + column, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["slot_map"])  # type: ignore[untyped-decorator]  # Triton has no types
def rotate_head(  # type: ignore[no-untyped-def]  # a kernel's values are Triton's
    queries,
    keys,
    values,
    qkv,
    norm,
    cos,
    sin,
    slot_map,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    """One program for each (token, head); heads are those of queries, keys, values, in this order."""
    token, head = tl.program_id(0), tl.program_id(1)
    half: tl.constexpr = HEAD_DIM // 2
    i = tl.arange(0, PADDED_HALF)
    inside = i < half
    is_query, is_value = head < HEADS, head >= HEADS + KV_HEADS
    source = qkv + (token * (HEADS + 2 * KV_HEADS) + head).to(tl.int64) * HEAD_DIM
    low = tl.load(source + i, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + half + i, mask=inside, other=0.0).to(tl.float32)

    if HAS_NORM:
        weighed = inside & (head < HEADS + KV_HEADS)
        factor = tl.rsqrt(tl.sum(low * low + high * high, 0) / HEAD_DIM + eps)
        low_norm = tl.load(norm + head * HEAD_DIM + i, mask=weighed, other=0.0)
        low = tl.where(is_value, low, low * factor * low_norm)
        high_norm = tl.load(norm + head * HEAD_DIM + half + i, mask=weighed, other=0.0)
        high = tl.where(is_value, high, high * factor * high_norm)
    c = tl.load(cos + token * half + i, mask=inside, other=0.0)
    s = tl.load(sin + token * half + i, mask=inside, other=0.0)
    first = tl.where(is_value, low, low * c - high * s).to(queries.dtype.element_ty)
    second = tl.where(is_value, high, high * c + low * s).to(queries.dtype.element_ty)

    query = queries + (token * HEADS + head) * HEAD_DIM + i
    tl.store(query, first, mask=inside & is_query)
    tl.store(query + half, second, mask=inside & is_query)
    place = tl.load(slot_map + token).to(tl.int64)
    is_kept = inside & (place >= 0)
    key = keys + (place * KV_HEADS + head - HEADS) * HEAD_DIM + i
    is_key = is_kept & (head >= HEADS) & (head < HEADS + KV_HEADS)
    tl.store(key, first, mask=is_key)
    tl.store(key + half, second, mask=is_key)
    value = values + (place * KV_HEADS + head - HEADS - KV_HEADS) * HEAD_DIM + i
    tl.store(value, first, mask=is_kept & is_value)
    tl.store(value + half, second, mask=is_kept & is_value)


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def gate_row(  # type: ignore[no-untyped-def]  # a kernel's values are Triton's
    out, gate_up, FFN: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < FFN
    gate = tl.load(gate_up + row * 2 * FFN + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * FFN + FFN + column, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        activated = 0.5 * gate * (1.0 + tanh(0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)))
    else:
        faded = tl.exp(-tl.abs(gate))
        activated = gate * tl.where(gate < 0, faded, 1.0) / (1.0 + faded)
    tl.store(out + row * FFN + column, (activated * up).to(out.dtype.element_ty), mask=inside)
