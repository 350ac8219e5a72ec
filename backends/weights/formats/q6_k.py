"""Q6_K (`block_q6_K` in ggml-common.h): 256 elements, sixteen groups of 16, in 210 bytes.

u4 l[256] | u2 h[256] | i8 s[16] | f16 d
value = d * s * ((l | h << 4) - 32)
each 64 bytes of l hold 128 elements, low nibbles first; each 32 bytes of h hold 128, two bits per 32 elements
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import (
    pack_nibbles,
    pack_pairs,
    read_f16,
    unpack_nibbles,
    unpack_pairs,
    write_finite_f16,
)
from backends.weights.formats.fit_scale import SMALLEST_PEAK, fit_scale
from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.groups import to_groups
from backends.weights.formats.k_signed import requantize, signed_levels


def _decode(blocks: U8) -> F32:
    scales = read_f16(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    low = unpack_nibbles(blocks[:, :128], group_bytes=64)
    codes = low | (unpack_pairs(blocks[:, 128:192]) << np.uint8(4))
    quants = (codes.astype(np.int8) - np.int8(32)).reshape(-1, 16, 16).astype(np.float32)
    return (scales[:, :, None] * quants).reshape(-1, 256)


def _encode(blocks: F32) -> U8:
    groups = to_groups(blocks, 16)
    return _packed(groups, groups * groups)


def _encode_weighted(rows: F32, importance: F32) -> U8:
    each = np.broadcast_to(importance, rows.shape).reshape(-1, 256)
    return _packed(to_groups(rows.reshape(-1, 256), 16), to_groups(each, 16))


def _packed(groups: F32, weights: F32) -> U8:
    fit = fit_scale(groups, weights, half=32)
    scale, levels = signed_levels(fit.scale, half=128)
    stored = write_finite_f16(scale)
    codes = requantize(groups, fit.codes(groups, 32), stored, levels, half=32)
    high = pack_pairs(codes >> np.uint8(4))
    scales = levels.astype(np.int8).view(np.uint8)
    blocks = np.concatenate([pack_nibbles(codes, group_bytes=64), high, scales, stored], axis=1)
    blocks[np.abs(fit.scale).reshape(-1, 16).max(axis=1) < SMALLEST_PEAK] = 0
    return blocks


FORMAT = Format(
    name="Q6_K",
    ggml_type=14,
    block_size=256,
    block_bytes=210,
    decode_blocks=_decode,
    encode_blocks=_encode,
    encode_weighted=_encode_weighted,
)
