"""The twelve bytes of Q4_K and Q5_K that pack eight 6-bit scales and eight 6-bit minima.

bytes 0…3    2 high bits of scale 4…7 | 6 bits of scale 0…3
bytes 4…7    2 high bits of min   4…7 | 6 bits of min   0…3
bytes 8…11   4 low bits of min 4…7    | 4 low bits of scale 4…7
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.format import F32, U8


def unpack_scales_and_minima(packed: U8) -> tuple[F32, F32]:
    """uint8 `[blocks, 12]` → two float32 `[blocks, 8, 1]` of whole numbers, as `get_scale_min_k4` in ggml-quants.c."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    high = np.uint8(0x30)
    scales = np.concatenate([first & 0x3F, (third & 0x0F) | ((first >> 2) & high)], axis=1)
    minima = np.concatenate([second & 0x3F, (third >> 4) | ((second >> 2) & high)], axis=1)
    return scales.astype(np.float32)[:, :, None], minima.astype(np.float32)[:, :, None]


def pack_scales_and_minima(scales: U8, minima: U8) -> U8:
    """Two uint8 `[blocks, 8]` of values 0…63 → `[blocks, 12]`."""
    high = np.uint8(0xC0)
    first = scales[:, :4] | ((scales[:, 4:] << 2) & high)
    second = minima[:, :4] | ((minima[:, 4:] << 2) & high)
    third = (scales[:, 4:] & 0x0F) | (minima[:, 4:] << 4)
    return np.concatenate([first, second, third], axis=1)
