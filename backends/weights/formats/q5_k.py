"""Q5_K (`block_q5_K` in ggml-common.h): 256 elements, eight groups of 32, in 176 bytes.

f16 d | f16 dmin | 12 bytes of 6-bit (s, m) | u8 h[32] | u4 q[256]
value = d * s * (q | h << 4) - dmin * m; nibbles as in Q4_K, bit g of h[i] belongs to element i of group g
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import read_f16, unpack_nibbles
from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.k_scales import unpack_scales_and_minima

_GROUPS = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)


def _decode(blocks: U8) -> F32:
    scales, minima = unpack_scales_and_minima(blocks[:, 4:16])
    scales = read_f16(blocks[:, 0:2])[:, :, None] * scales
    minima = read_f16(blocks[:, 2:4])[:, :, None] * minima
    fifth = ((blocks[:, 16:48].reshape(-1, 1, 32) >> _GROUPS) & np.uint8(1)) << np.uint8(4)
    quants = unpack_nibbles(blocks[:, 48:], group_bytes=32).reshape(-1, 8, 32) | fifth
    return (scales * quants.astype(np.float32) - minima).reshape(-1, 256)


FORMAT = Format(name="Q5_K", ggml_type=13, block_size=256, block_bytes=176, decode_blocks=_decode)
