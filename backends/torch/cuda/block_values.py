"""Values of quantized blocks inside a Triton kernel, for all twelve formats. Not verified on a GPU yet.

Fields of the blocks are those of `backends.torch.blocks`, uint8. Values come as `[rows, groups, 32]`: a group is 32
columns, `at` `[rows, groups, 1]` its index in the matrix, `s` its place in a block of 256, `e` the column in it. The
layouts are documented with the formats.
"""

from __future__ import annotations

import triton
import triton.language as tl

kernel = triton.jit  # its values are Triton's and have no types


@kernel  # type: ignore[untyped-decorator]
def values(f0, f1, f2, f3, f4, at, e, mask, FORMAT: tl.constexpr):  # type: ignore[no-untyped-def]
    """float32 `[rows, groups, 32]`; `FORMAT` is the number of the format in GGUF files.

    One branch chain with one return: the compiler goes on behind a return inside a branch that it knows.
    """
    if FORMAT == 2:
        weights = (nibble(f1, at, e, mask) - 8) * half(f0, at, mask)
    elif FORMAT == 3:
        weights = nibble(f2, at, e, mask) * half(f0, at, mask) + half(f1, at, mask)
    elif FORMAT == 6:
        weights = (nibble(f2, at, e, mask) + fifth(f1, at, e, mask) - 16) * half(f0, at, mask)
    elif FORMAT == 7:
        codes = nibble(f3, at, e, mask) + fifth(f2, at, e, mask)
        weights = codes * half(f0, at, mask) + half(f1, at, mask)
    elif FORMAT == 8:
        weights = signed(f1, at * 32 + e, mask) * half(f0, at, mask)
    elif FORMAT == 9:
        weights = signed(f2, at * 32 + e, mask) * half(f0, at, mask)
    else:
        weights = k_values(f0, f1, f2, f3, f4, at // 8, at % 8, e, mask, FORMAT)
    return weights


@kernel  # type: ignore[untyped-decorator]
def k_values(f0, f1, f2, f3, f4, block, s, e, mask, FORMAT: tl.constexpr):  # type: ignore[no-untyped-def]
    if FORMAT == 10:
        levels = byte(f0, block * 16 + s * 2 + e // 16, mask)
        low = (levels >> 4).to(tl.float32) * half(f3, block, mask)
        weights = pair(f1, block, s, e, mask) * (half(f2, block, mask) * (levels & 15).to(tl.float32)) - low
    elif FORMAT == 11:
        codes = pair(f1, block, s, e, mask) + plane(f0, block, s, e, mask) * 4
        weights = (codes - 4) * (half(f3, block, mask) * q3_level(f2, block, s * 2 + e // 16, mask))
    elif FORMAT == 12:
        weights = k_affine(f0, f1, f2, k_nibble(f3, block, s, e, mask), block, s, mask)
    elif FORMAT == 13:
        codes = k_nibble(f4, block, s, e, mask) + plane(f3, block, s, e, mask) * 16
        weights = k_affine(f0, f1, f2, codes, block, s, mask)
    elif FORMAT == 14:
        low = byte(f0, block * 128 + s // 4 * 64 + s % 2 * 32 + e, mask) >> (s % 4 // 2 * 4) & 15
        codes = low.to(tl.float32) + pair(f1, block, s, e, mask) * 16
        weights = (codes - 32) * (half(f3, block, mask) * signed(f2, block * 16 + s * 2 + e // 16, mask))
    else:
        tl.static_assert(FORMAT == 15)
        weights = signed(f1, block * 256 + s * 32 + e, mask) * single(f0, block, mask)
    return weights


@kernel
def k_affine(f0, f1, f2, codes, block, s, mask):  # type: ignore[no-untyped-def]
    """`get_scale_min_k4` of ggml-quants.c: twelve bytes hold eight 6-bit scales and minima."""
    a = byte(f2, block * 12 + s % 4, mask)
    b = byte(f2, block * 12 + s % 4 + 4, mask)
    c = byte(f2, block * 12 + s % 4 + 8, mask)
    scale = tl.where(s < 4, a & 63, (c & 15) | (a >> 6) << 4).to(tl.float32)
    low = tl.where(s < 4, b & 63, (c >> 4) | (b >> 6) << 4).to(tl.float32)
    return codes * (half(f0, block, mask) * scale) - half(f1, block, mask) * low


@kernel
def q3_level(packed, block, g, mask):  # type: ignore[no-untyped-def]
    low = byte(packed, block * 12 + g % 8, mask) >> (g // 8 * 4) & 15
    high = byte(packed, block * 12 + 8 + g % 4, mask) >> (g // 4 * 2) & 3
    return (low | high << 4).to(tl.float32) - 32


@kernel
def nibble(codes, at, e, mask):  # type: ignore[no-untyped-def]
    return (byte(codes, at * 16 + e % 16, mask) >> (e // 16 * 4) & 15).to(tl.float32)


@kernel
def k_nibble(codes, block, s, e, mask):  # type: ignore[no-untyped-def]
    return (byte(codes, block * 128 + s // 2 * 32 + e, mask) >> (s % 2 * 4) & 15).to(tl.float32)


@kernel
def pair(codes, block, s, e, mask):  # type: ignore[no-untyped-def]
    return (byte(codes, block * 64 + s // 4 * 32 + e, mask) >> (s % 4 * 2) & 3).to(tl.float32)


@kernel
def plane(bits, block, s, e, mask):  # type: ignore[no-untyped-def]
    return (byte(bits, block * 32 + e, mask) >> s & 1).to(tl.float32)


@kernel
def fifth(bits, at, e, mask):  # type: ignore[no-untyped-def]
    return (byte(bits, at * 4 + e // 8, mask) >> (e % 8) & 1).to(tl.float32) * 16


@kernel
def byte(field, index, mask):  # type: ignore[no-untyped-def]
    return tl.load(field + index, mask=mask, other=0).to(tl.int32)


@kernel
def signed(field, index, mask):  # type: ignore[no-untyped-def]
    return tl.load(field + index, mask=mask, other=0).to(tl.int8, bitcast=True).to(tl.float32)


@kernel
def half(field, index, mask):  # type: ignore[no-untyped-def]
    """A float16 of two bytes."""
    bits = byte(field, index * 2, mask) | byte(field, index * 2 + 1, mask) << 8
    return bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@kernel
def single(field, index, mask):  # type: ignore[no-untyped-def]
    """A float32 of four bytes."""
    low = byte(field, index * 4, mask) | byte(field, index * 4 + 1, mask) << 8
    high = byte(field, index * 4 + 2, mask) << 16 | byte(field, index * 4 + 3, mask) << 24
    return (low | high).to(tl.float32, bitcast=True)
