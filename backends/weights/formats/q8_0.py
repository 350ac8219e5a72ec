"""Q8_0 (`block_q8_0` in ggml-common.h): 32 elements in 34 bytes.

f16 d | i8 q[32]          value = d * q
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import inverse, read_f16, write_f16
from backends.weights.formats.format import F32, U8, Format


def _decode(blocks: U8) -> F32:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * read_f16(blocks[:, :2])


def _encode(values: F32) -> U8:
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    quants = round_half_away(values * inverse(scale)).astype(np.int8)
    return np.concatenate([write_f16(scale), quants.view(np.uint8)], axis=1)


def round_half_away(values: F32) -> F32:
    """C's `roundf`: halves go away from zero."""
    size = np.abs(values)
    floor = np.floor(size)
    rounded: F32 = np.copysign(floor + np.floor(2 * (size - floor)), values)
    return rounded


FORMAT = Format(name="Q8_0", ggml_type=8, block_size=32, block_bytes=34, decode_blocks=_decode, encode_blocks=_encode)
