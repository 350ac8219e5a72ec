"""A second reading of the block layouts, element by element, from the structs of ggml-common.h. Slow and plain.

Shares nothing with `backends.weights.formats`: one function a format, block bytes → float32 values, with the float32
operations in the order in which ggml-quants.c has them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np

Values = Iterator[np.float32]


def f16(block: bytes, at: int) -> np.float32:
    return np.float32(struct.unpack_from("<e", block, at)[0])


def f32(block: bytes, at: int) -> np.float32:
    return np.float32(struct.unpack_from("<f", block, at)[0])


def i8(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def nibble(codes: bytes, i: int) -> int:
    """Code of one of 32 elements in 16 bytes: the first half low, the second half high."""
    return codes[i] & 15 if i < 16 else codes[i - 16] >> 4


def q4_0(b: bytes) -> Values:
    return (f16(b, 0) * np.float32(nibble(b[2:], i) - 8) for i in range(32))


def q4_1(b: bytes) -> Values:
    return (f16(b, 0) * np.float32(nibble(b[4:], i)) + f16(b, 2) for i in range(32))


def q5_0(b: bytes) -> Values:
    (high,) = struct.unpack_from("<I", b, 2)
    return (f16(b, 0) * np.float32((nibble(b[6:], i) | (high >> i & 1) << 4) - 16) for i in range(32))


def q5_1(b: bytes) -> Values:
    (high,) = struct.unpack_from("<I", b, 4)
    return (f16(b, 0) * np.float32(nibble(b[8:], i) | (high >> i & 1) << 4) + f16(b, 2) for i in range(32))


def q8_0(b: bytes) -> Values:
    return (f16(b, 0) * np.float32(i8(b[2 + i])) for i in range(32))


def q8_1(b: bytes) -> Values:
    return (f16(b, 0) * np.float32(i8(b[4 + i])) for i in range(32))


def q8_k(b: bytes) -> Values:
    return (f32(b, 0) * np.float32(i8(b[4 + i])) for i in range(256))


def q2_k(b: bytes) -> Values:
    """u8 scales[16], u8 qs[64], f16 d, f16 dmin."""
    for i in range(256):
        half, within = divmod(i, 128)
        code = b[16 + 32 * half + within % 32] >> 2 * (within // 32) & 3
        levels = b[i // 16]
        yield (f16(b, 80) * np.float32(levels & 15)) * np.float32(code) - f16(b, 82) * np.float32(levels >> 4)


def q3_k(b: bytes) -> Values:
    """u8 hmask[32], u8 qs[64], u8 scales[12], f16 d."""
    for i in range(256):
        half, within = divmod(i, 128)
        low = b[32 + 32 * half + within % 32] >> 2 * (within // 32) & 3
        high = b[i % 32] >> i // 32 & 1
        group = i // 16
        low_level = b[96 + group % 8] >> 4 * (group // 8) & 15
        high_level = b[104 + group % 4] >> 2 * (group // 4) & 3
        scale = f16(b, 108) * np.float32((low_level | high_level << 4) - 32)
        yield scale * np.float32((low | high << 2) - 4)


def k_levels(b: bytes, group: int) -> tuple[np.float32, np.float32]:
    """Scale and minimum of a group of 32, from d, dmin and `get_scale_min_k4`."""
    packed = b[4:16]
    if group < 4:
        scale, minimum = packed[group] & 63, packed[group + 4] & 63
    else:
        scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4
        minimum = packed[group + 4] >> 4 | (packed[group] >> 6) << 4
    return f16(b, 0) * np.float32(scale), f16(b, 2) * np.float32(minimum)


def q4_k(b: bytes) -> Values:
    """f16 d, f16 dmin, u8 scales[12], u8 qs[128]."""
    for i in range(256):
        scale, minimum = k_levels(b, i // 32)
        code = b[16 + 32 * (i // 64) + i % 32] >> 4 * (i // 32 % 2) & 15
        yield scale * np.float32(code) - minimum


def q5_k(b: bytes) -> Values:
    """f16 d, f16 dmin, u8 scales[12], u8 qh[32], u8 qs[128]."""
    for i in range(256):
        scale, minimum = k_levels(b, i // 32)
        low = b[48 + 32 * (i // 64) + i % 32] >> 4 * (i // 32 % 2) & 15
        high = b[16 + i % 32] >> i // 32 & 1
        yield scale * np.float32(low | high << 4) - minimum


def q6_k(b: bytes) -> Values:
    """u8 ql[128], u8 qh[64], i8 scales[16], f16 d."""
    for i in range(256):
        half, within = divmod(i, 128)
        low = b[64 * half + within % 64] >> 4 * (within // 64) & 15
        high = b[128 + 32 * half + within % 32] >> 2 * (within // 32) & 3
        scale = f16(b, 208) * np.float32(i8(b[192 + i // 16]))
        yield scale * np.float32((low | high << 4) - 32)


SCALES_AT = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q8_1": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Positions of float16 scales and minima in a block; Q8_K has one float32, at 0."""

READERS: dict[str, Callable[[bytes], Values]] = {
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q8_0": q8_0,
    "Q8_1": q8_1,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "Q8_K": q8_k,
}
