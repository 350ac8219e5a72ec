"""Attention over blocks of keys and values through ctypes; blocks have `backends.kv.BLOCK_TOKENS` tokens."""

from __future__ import annotations

import ctypes

import msgspec
import numpy as np
import numpy.typing as npt

from backends.kernels.library import F32, U8, Library, aligned, in_parts
from backends.kv import KVDtype

KV_TYPES: dict[KVDtype, int] = {"f32": 0, "f16": 1, "int8": 2}
MAX_HEAD_DIM = 512

I32 = npt.NDArray[np.int32]
_I32, _I64, _FLOAT, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class _Attention(ctypes.Structure):
    """`hk_attention`."""

    _fields_ = (
        *((name, _I64) for name in ("heads", "kv_heads", "head_dim", "window")),
        *((name, _I64) for name in ("tokens", "sequences", "blocks_each", "num_blocks")),
        ("kv_type", _I32),
        *((name, _FLOAT) for name in ("scale", "softcap")),
        *((name, _POINTER) for name in ("qkv", "cosine", "sine", "q_start", "kv_len", "blocks")),
        *((name, _POINTER) for name in ("kv", "queries", "out")),
    )


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """Keys and values of one layer in blocks of 16 tokens."""

    library: Library
    kv_type: KVDtype
    kv_heads: int
    head_dim: int
    num_blocks: int
    data: U8


class Ragged(msgspec.Struct, frozen=True, kw_only=True):
    """Assigns new tokens to sequences: `q_start[S + 1]`, `kv_len[S]` with them, `blocks[S, W]`; int32."""

    q_start: I32
    kv_len: I32
    blocks: I32


def make_cache(library: Library, kv_type: KVDtype, *, kv_heads: int, head_dim: int, num_blocks: int) -> Cache:
    """Zeros. `head_dim` is a multiple of 16, at most `MAX_HEAD_DIM`."""
    size: int = library.functions.hk_kv_bytes(KV_TYPES[kv_type], kv_heads, head_dim, num_blocks)
    return Cache(
        library=library,
        kv_type=kv_type,
        kv_heads=kv_heads,
        head_dim=head_dim,
        num_blocks=num_blocks,
        data=aligned(size),
    )


def attend(
    cache: Cache,
    qkv: F32,
    step: Ragged,
    *,
    rotary: tuple[F32, F32],
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    threads: int = 1,
) -> F32:
    """Write the new keys and values, then float32 `[T, heads * head_dim]`.

    `qkv` is float32 `[T, (heads + 2 kv_heads) * head_dim]`, `rotary` (cos, sin) of all positions, each float32
    `[positions, head_dim / 2]`. A token sees `window` keys, itself included; 0 is all.
    """
    functions, tokens = cache.library.functions, len(qkv)
    heads = qkv.shape[1] // cache.head_dim - 2 * cache.kv_heads
    out, queries = (np.empty((tokens, heads * cache.head_dim), np.float32) for _ in range(2))
    floats = [np.ascontiguousarray(array, np.float32) for array in (qkv, *rotary)]
    tables = [np.ascontiguousarray(array, np.int32) for array in (step.q_start, step.kv_len, step.blocks)]
    addresses = [array.ctypes.data for array in floats] + [array.ctypes.data for array in tables]
    attention = ctypes.byref(
        _Attention(
            *(heads, cache.kv_heads, cache.head_dim, window),
            *(tokens, len(step.kv_len), step.blocks.shape[1], cache.num_blocks),
            *(KV_TYPES[cache.kv_type], scale, softcap),
            *(*addresses, cache.data.ctypes.data, queries.ctypes.data, out.ctypes.data),
        )
    )
    in_parts(lambda first, last: functions.hk_place(attention, first, last), tokens, threads=threads)
    num_tasks: int = functions.hk_num_tasks(attention)
    in_parts(lambda first, last: functions.hk_attend(attention, first, last), num_tasks, threads=threads)
    return out
