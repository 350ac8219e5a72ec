"""Q4_1 (`block_q4_1` in ggml-common.h): 32 elements in 20 bytes.

f16 d | f16 m | u4 q[32]  value = d * q + m; low nibbles hold elements 0…15, high nibbles 16…31
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import inverse, pack_nibbles, read_f16, unpack_nibbles, write_f16
from backends.weights.formats.format import F32, U8, Format


def _decode(blocks: U8) -> F32:
    quants = unpack_nibbles(blocks[:, 4:], group_bytes=16).astype(np.float32)
    return read_f16(blocks[:, :2]) * quants + read_f16(blocks[:, 2:4])


def _encode(values: F32) -> U8:
    low = values.min(axis=1, keepdims=True)
    scale = (values.max(axis=1, keepdims=True) - low) / np.float32(15)
    quants = ((values - low) * inverse(scale) + np.float32(0.5)).astype(np.uint8).clip(0, 15)
    return np.concatenate([write_f16(scale), write_f16(low), pack_nibbles(quants)], axis=1)


FORMAT = Format(name="Q4_1", ggml_type=3, block_size=32, block_bytes=20, decode_blocks=_decode, encode_blocks=_encode)
