"""Q6_K (`block_q6_K` in ggml-common.h): 256 elements, sixteen groups of 16, in 210 bytes.

u4 l[256] | u2 h[256] | i8 s[16] | f16 d
value = d * s * ((l | h << 4) - 32)
each 64 bytes of l hold 128 elements, low nibbles first; each 32 bytes of h hold 128, two bits per 32 elements
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import read_f16, unpack_nibbles
from backends.weights.formats.format import F32, U8, Format

_PAIRS = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)


def _decode(blocks: U8) -> F32:
    scales = read_f16(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    low = unpack_nibbles(blocks[:, :128], group_bytes=64)
    high = (blocks[:, 128:192].reshape(-1, 1, 32) >> _PAIRS) & np.uint8(3)
    codes = low | (high.reshape(-1, 256) << np.uint8(4))
    quants = (codes.astype(np.int8) - np.int8(32)).reshape(-1, 16, 16).astype(np.float32)
    return (scales[:, :, None] * quants).reshape(-1, 256)


FORMAT = Format(name="Q6_K", ggml_type=14, block_size=256, block_bytes=210, decode_blocks=_decode)
