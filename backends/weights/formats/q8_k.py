"""Q8_K (`block_q8_K` in ggml-common.h): 256 elements in 292 bytes.

f32 d | i8 q[256] | i16 s[16]
value = d * q; s[g] = the sum of q of elements 16 * g … 16 * g + 15 serves dot products and is not read here
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.groups import round_to

_SMALLEST_PEAK = np.float32(1e-36)
"""Blocks whose largest element is smaller become zero: the inverse scale would overflow."""


def _decode(blocks: U8) -> F32:
    scale = np.ascontiguousarray(blocks[:, :4]).view("<f4").astype(np.float32)
    return blocks[:, 4:260].view(np.int8).astype(np.float32) * scale


def _encode(values: F32) -> U8:
    # The element of largest size gets the code -127, whatever its sign.
    peak = np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)
    zero = np.abs(peak) < _SMALLEST_PEAK
    inverse = np.where(zero, np.float32(0), np.float32(-127) / np.where(zero, np.float32(1), peak))
    scale = np.where(zero, np.float32(0), np.float32(1) / np.where(zero, np.float32(1), inverse))
    quants = round_to(values * inverse, -128, 127).astype(np.int8)
    sums = quants.reshape(-1, 16, 16).sum(axis=2, dtype=np.int16).astype("<i2")
    return np.concatenate([scale.astype("<f4").view(np.uint8), quants.view(np.uint8), sums.view(np.uint8)], axis=1)


FORMAT = Format(
    name="Q8_K", ggml_type=15, block_size=256, block_bytes=292, decode_blocks=_decode, encode_blocks=_encode
)
