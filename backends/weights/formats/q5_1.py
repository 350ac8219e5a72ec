"""Q5_1 (`block_q5_1` in ggml-common.h): 32 elements in 24 bytes.

f16 d | f16 m | u32 h | u4 q[32]
value = d * (q | h_i << 4) + m; nibbles as in Q4_1, bit i of h belongs to element i
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import (
    inverse,
    pack_fifth_bits,
    pack_nibbles,
    read_f16,
    unpack_fifth_bits,
    unpack_nibbles,
    write_f16,
    write_finite_f16,
)
from backends.weights.formats.fit_affine import WEIGHTED_TRIES, fit_affine
from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.groups import from_groups, lowest_of, row_weighted_groups


def _decode(blocks: U8) -> F32:
    codes = unpack_nibbles(blocks[:, 8:], group_bytes=16) | unpack_fifth_bits(blocks[:, 4:8])
    return read_f16(blocks[:, :2]) * codes.astype(np.float32) + read_f16(blocks[:, 2:4])


def _encode(values: F32) -> U8:
    low = lowest_of(values.T).reshape(-1, 1)
    scale = np.abs(values.max(axis=1, keepdims=True) - low) / np.float32(31)
    codes = ((values - low) * inverse(scale) + np.float32(0.5)).astype(np.uint8).clip(0, 31)
    return np.concatenate(
        [write_f16(scale), write_f16(low), pack_fifth_bits(codes), pack_nibbles(codes, group_bytes=16)], axis=1
    )


def _encode_weighted(rows: F32, importance: F32) -> U8:
    # As `quantize_row_q5_1_impl` in ggml-quants.c.
    groups, weights = row_weighted_groups(rows, importance, 32)
    fit = fit_affine(groups, weights, top=31, tries=WEIGHTED_TRIES)
    codes = from_groups(fit.codes(groups, 31), 32)
    scale, low = (write_finite_f16(found.reshape(-1, 1)) for found in (fit.scale, -fit.minimum))
    return np.concatenate([scale, low, pack_fifth_bits(codes), pack_nibbles(codes, group_bytes=16)], axis=1)


FORMAT = Format(
    name="Q5_1",
    ggml_type=7,
    block_size=32,
    block_bytes=24,
    decode_blocks=_decode,
    encode_blocks=_encode,
    encode_weighted=_encode_weighted,
)
