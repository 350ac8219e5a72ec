"""Q4_K (`block_q4_K` in ggml-common.h): 256 elements, eight groups of 32, in 144 bytes.

f16 d | f16 dmin | 12 bytes of 6-bit (s, m) | u4 q[256]
value = d * s * q - dmin * m; each 32 bytes of q hold two groups, low nibbles first
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import pack_nibbles, read_f16, unpack_nibbles
from backends.weights.formats.fit_affine import Tries
from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.groups import root_mean_square, to_groups
from backends.weights.formats.k_affine import (
    AffineBlocks,
    AffineGroups,
    pack_scales_and_minima,
    unpack_scales_and_minima,
)

_GROUPS = AffineGroups(size=32, top=15, level_top=63)
_TRIES = Tries(-1.0, 0.1, 20)


def _decode(blocks: U8) -> F32:
    scales, minima = unpack_scales_and_minima(blocks[:, 4:16])
    scales = read_f16(blocks[:, 0:2])[:, :, None] * scales
    minima = read_f16(blocks[:, 2:4])[:, :, None] * minima
    quants = unpack_nibbles(blocks[:, 16:], group_bytes=32).reshape(-1, 8, 32).astype(np.float32)
    return (scales * quants - minima).reshape(-1, 256)


def _encode(blocks: F32) -> U8:
    groups = to_groups(blocks, 32)
    return _packed(_GROUPS.encode(groups, root_mean_square(groups) + np.abs(groups), tries=_TRIES))


def _encode_weighted(rows: F32, importance: F32) -> U8:
    return _packed(_GROUPS.encode_weighted(rows, importance, spread_factor=2))


def _packed(blocks: AffineBlocks) -> U8:
    levels = pack_scales_and_minima(blocks.scales, blocks.minima)
    return np.concatenate([blocks.scale, blocks.minimum, levels, pack_nibbles(blocks.codes, group_bytes=32)], axis=1)


FORMAT = Format(
    name="Q4_K",
    ggml_type=12,
    block_size=256,
    block_bytes=144,
    decode_blocks=_decode,
    encode_blocks=_encode,
    encode_weighted=_encode_weighted,
)
