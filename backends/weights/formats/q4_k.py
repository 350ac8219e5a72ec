"""Q4_K (`block_q4_K` in ggml-common.h): 256 elements, eight groups of 32, in 144 bytes.

f16 d | f16 dmin | 12 bytes of 6-bit (s, m) | u4 q[256]
value = d * s * q - dmin * m; each 32 bytes of q hold two groups, low nibbles first
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import read_f16, unpack_nibbles
from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.k_scales import unpack_scales_and_minima


def _decode(blocks: U8) -> F32:
    scales, minima = unpack_scales_and_minima(blocks[:, 4:16])
    scales = read_f16(blocks[:, 0:2])[:, :, None] * scales
    minima = read_f16(blocks[:, 2:4])[:, :, None] * minima
    quants = unpack_nibbles(blocks[:, 16:], group_bytes=32).reshape(-1, 8, 32).astype(np.float32)
    return (scales * quants - minima).reshape(-1, 256)


FORMAT = Format(name="Q4_K", ggml_type=12, block_size=256, block_bytes=144, decode_blocks=_decode)
