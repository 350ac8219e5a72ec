"""Q3_K (`block_q3_K` in ggml-common.h): 256 elements, sixteen groups of 16, in 110 bytes.

u8 h[32] | u2 q[256] | 12 bytes of 6-bit s | f16 d
value = d * (s - 32) * ((q | h << 2) - 4); pairs as in Q2_K, bit g of h[i] belongs to element 32 * g + i

bytes 0…7 of s    4 low bits of scale 8…15 | 4 low bits of scale 0…7
bytes 8…11 of s   2 high bits of scale 12…15 | of 8…11 | of 4…7 | of 0…3
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import (
    pack_nibbles,
    pack_pairs,
    pack_planes,
    read_f16,
    unpack_nibbles,
    unpack_pairs,
    unpack_planes,
    write_finite_f16,
)
from backends.weights.formats.fit_scale import fit_scale
from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.groups import importance_weights, mean_square, sum_in_order, to_groups
from backends.weights.formats.k_signed import requantize, signed_levels
from backends.weights.formats.refine import refine_signed

_HIGH_SHIFTS = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)


def _decode(blocks: U8) -> F32:
    scales = read_f16(blocks[:, 108:]) * (unpack_levels(blocks[:, 96:108]).astype(np.int8) - np.int8(32))
    codes = unpack_pairs(blocks[:, 32:96]) | (unpack_planes(blocks[:, :32]) << np.uint8(2))
    quants = (codes.astype(np.int8) - np.int8(4)).reshape(-1, 16, 16)
    values: F32 = scales[:, :, None] * quants
    return values.reshape(-1, 256)


def _encode(blocks: F32) -> U8:
    groups = to_groups(blocks, 16)
    scales, searched = refine_signed(groups, half=4)
    scale, levels = signed_levels(scales, half=32)
    levels = np.where(scale == 0, np.float32(-32), levels)  # the source leaves their bits at zero
    return _packed(groups, searched, scale, levels)


def _encode_weighted(rows: F32, importance: F32) -> U8:
    blocks = rows.reshape(-1, 256)
    each = np.broadcast_to(importance, rows.shape).reshape(-1, 256)
    groups = to_groups(blocks, 16)
    weights = to_groups(importance_weights(blocks, each, 2 * mean_square(blocks)), 16)
    fit = fit_scale(groups, weights, half=4)
    scales, sums = to_groups(fit.scale, 16), to_groups(sum_in_order(weights), 16)
    block_fit = fit_scale(scales, sums, half=32)
    levels = block_fit.codes(scales, 32).T.astype(np.float32) - np.float32(32)
    return _packed(groups, fit.codes(groups, 4), block_fit.scale.reshape(-1, 1), levels)


def _packed(groups: F32, searched: U8, scale: F32, levels: F32) -> U8:
    stored = write_finite_f16(scale)
    codes = requantize(groups, searched, stored, levels, half=4)
    packed = _pack_levels((levels + np.float32(32)).astype(np.uint8))
    return np.concatenate([pack_planes(codes >> np.uint8(2)), pack_pairs(codes & np.uint8(3)), packed, stored], axis=1)


def unpack_levels(packed: U8) -> U8:
    """uint8 `[blocks, 12]` → `[blocks, 16]`: the scales of the groups, 0…63."""
    high = (packed[:, None, 8:] >> _HIGH_SHIFTS) & np.uint8(3)
    return unpack_nibbles(packed[:, :8], group_bytes=8) | (high.reshape(-1, 16) << np.uint8(4))


def _pack_levels(levels: U8) -> U8:
    high = (levels >> np.uint8(4)).reshape(-1, 4, 4) << _HIGH_SHIFTS
    return np.concatenate([pack_nibbles(levels, group_bytes=8), np.bitwise_or.reduce(high, axis=1)], axis=1)


FORMAT = Format(
    name="Q3_K",
    ggml_type=11,
    block_size=256,
    block_bytes=110,
    decode_blocks=_decode,
    encode_blocks=_encode,
    encode_weighted=_encode_weighted,
)
