"""Q2_K (`block_q2_K` in ggml-common.h): 256 elements, sixteen groups of 16, in 84 bytes.

(u4 s | u4 m << 4)[16] | u2 q[256] | f16 d | f16 dmin
value = d * s * q - dmin * m; each 32 bytes of q hold 128 elements, two bits per 32 elements
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import pack_pairs, read_f16, unpack_pairs
from backends.weights.formats.fit_affine import Tries
from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.groups import to_groups
from backends.weights.formats.k_affine import AffineBlocks, AffineGroups

_GROUPS = AffineGroups(size=16, top=3, level_top=15)
_TRIES = Tries(-0.5, 0.1, 15)


def _decode(blocks: U8) -> F32:
    levels = blocks[:, :16]
    scales: F32 = read_f16(blocks[:, 80:82]) * (levels & np.uint8(0x0F))
    minima: F32 = read_f16(blocks[:, 82:84]) * (levels >> np.uint8(4))
    quants = unpack_pairs(blocks[:, 16:80]).reshape(-1, 16, 16)
    values: F32 = scales[:, :, None] * quants - minima[:, :, None]
    return values.reshape(-1, 256)


def _encode(blocks: F32) -> U8:
    groups = to_groups(blocks, 16)
    return _packed(_GROUPS.encode(groups, np.abs(groups), tries=_TRIES, absolute=True))


def _encode_weighted(rows: F32, importance: F32) -> U8:
    return _packed(_GROUPS.encode_weighted(rows, importance, spread_factor=1))


def _packed(blocks: AffineBlocks) -> U8:
    levels = blocks.scales | (blocks.minima << np.uint8(4))
    return np.concatenate([levels, pack_pairs(blocks.codes), blocks.scale, blocks.minimum], axis=1)


FORMAT = Format(
    name="Q2_K",
    ggml_type=10,
    block_size=256,
    block_bytes=84,
    decode_blocks=_decode,
    encode_blocks=_encode,
    encode_weighted=_encode_weighted,
)
