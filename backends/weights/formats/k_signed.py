"""Shared parts of the encoders of Q3_K and Q6_K: 256 elements, groups of 16 with a signed scale of few bits.

(`quantize_row_q3_K_ref`, `quantize_row_q6_K_ref` and their `_impl` siblings in ggml-quants.c.)
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.bits import read_f16
from backends.weights.formats.format import F32, U8
from backends.weights.formats.groups import from_groups, peak_of, round_to, to_groups

BLOCK = 256
SIZE = 16
_SMALLEST = np.float32(1e-30)
"""Scales below are zero: a float16 cannot represent them, and their inverse might overflow."""


def signed_levels(scales: F32, *, half: int) -> tuple[F32, F32]:
    """float32 `[groups]` → scale of the block `[blocks, 1]` and levels `-half`…`half - 1` `[blocks, 16]`.

    The scale of largest size gets the level `-half`. A block whose scales are all zero gets zeros.
    """
    of_block = to_groups(scales, SIZE)
    peak = peak_of(of_block)
    zero = np.abs(peak) < _SMALLEST
    divisor: F32 = np.where(zero, np.float32(1), peak)
    inverse: F32 = np.float32(-half) / divisor  # ty: ignore[invalid-assignment]  # float32 stays float32
    scale = np.where(zero, np.float32(0), np.float32(1) / inverse)
    levels = round_to(inverse * of_block, -half, half - 1)
    return scale.reshape(-1, 1), np.ascontiguousarray(levels.T)


def requantize(groups: F32, searched: U8, scale: U8, levels: F32, *, half: int) -> U8:
    """Codes 0…`2 * half - 1`, uint8 `[blocks, 256]`, of `[16, groups]` for the scales that will be read back.

    `searched`: the codes to leave where such a scale is zero, `[16, groups]`; `scale`: float16 bytes `[blocks, 2]`.
    """
    read = (read_f16(scale) * levels).reshape(-1)
    lost = read == 0
    divisor: F32 = np.where(lost, np.float32(1), read)
    codes = round_to(groups / divisor, -half, half - 1) + np.float32(half)
    return from_groups(np.where(lost, searched, codes.astype(np.uint8)), BLOCK)
