"""Q4_1 (`block_q4_1` in ggml-common.h): 32 elements in 20 bytes.

f16 d | f16 m | u4 q[32]  value = d * q + m; low nibbles hold elements 0…15, high nibbles 16…31
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import (
    inverse,
    pack_nibbles,
    read_f16,
    unpack_nibbles,
    write_f16,
    write_finite_f16,
)
from backends.weights.formats.fit_affine import WEIGHTED_TRIES, fit_affine
from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.groups import from_groups, lowest_of, row_weighted_groups


def _decode(blocks: U8) -> F32:
    quants = unpack_nibbles(blocks[:, 4:], group_bytes=16).astype(np.float32)
    return read_f16(blocks[:, :2]) * quants + read_f16(blocks[:, 2:4])


def _encode(values: F32) -> U8:
    low = lowest_of(values.T).reshape(-1, 1)
    scale = np.abs(values.max(axis=1, keepdims=True) - low) / np.float32(15)
    quants = ((values - low) * inverse(scale) + np.float32(0.5)).astype(np.uint8).clip(0, 15)
    return np.concatenate([write_f16(scale), write_f16(low), pack_nibbles(quants, group_bytes=16)], axis=1)


def _encode_weighted(rows: F32, importance: F32) -> U8:
    # As `quantize_row_q4_1_impl` in ggml-quants.c.
    groups, weights = row_weighted_groups(rows, importance, 32)
    fit = fit_affine(groups, weights, top=15, tries=WEIGHTED_TRIES)
    codes = from_groups(fit.codes(groups, 15), 32)
    scale, low = (write_finite_f16(found.reshape(-1, 1)) for found in (fit.scale, -fit.minimum))
    return np.concatenate([scale, low, pack_nibbles(codes, group_bytes=16)], axis=1)


FORMAT = Format(
    name="Q4_1",
    ggml_type=3,
    block_size=32,
    block_bytes=20,
    decode_blocks=_decode,
    encode_blocks=_encode,
    encode_weighted=_encode_weighted,
)
