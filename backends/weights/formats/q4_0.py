"""Q4_0 (`block_q4_0` in ggml-common.h): 32 elements in 18 bytes.

f16 d | u4 q[32]          value = d * (q - 8); low nibbles hold elements 0…15, high nibbles 16…31
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
from backends.weights.formats.fit_scale import fit_scale
from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.groups import from_groups, row_weighted_groups


def _decode(blocks: U8) -> F32:
    quants = unpack_nibbles(blocks[:, 2:], group_bytes=16).astype(np.int8) - np.int8(8)
    return read_f16(blocks[:, :2]) * quants.astype(np.float32)


def _encode(values: F32) -> U8:
    # The element of largest size gets the code -8, the end of the range that has no positive twin.
    peak = np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)
    positive = peak + np.float32(0)  # -0.0 counts as 0
    scale: F32 = positive / np.float32(-8)  # ty: ignore[invalid-assignment]  # float32 stays float32
    quants = (values * inverse(scale) + np.float32(8.5)).astype(np.uint8).clip(0, 15)
    return np.concatenate([write_f16(scale), pack_nibbles(quants, group_bytes=16)], axis=1)


def _encode_weighted(rows: F32, importance: F32) -> U8:
    # As `quantize_row_q4_0_impl` in ggml-quants.c.
    groups, weights = row_weighted_groups(rows, importance, 32)
    fit = fit_scale(groups, weights, half=8)
    codes = from_groups(fit.codes(groups, 8), 32)
    scale = write_finite_f16(fit.scale.reshape(-1, 1))
    return np.concatenate([scale, pack_nibbles(codes, group_bytes=16)], axis=1)


FORMAT = Format(
    name="Q4_0",
    ggml_type=2,
    block_size=32,
    block_bytes=18,
    decode_blocks=_decode,
    encode_blocks=_encode,
    encode_weighted=_encode_weighted,
)
