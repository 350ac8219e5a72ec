"""BF16: the upper half of a binary32, little-endian."""

from __future__ import annotations

import numpy as np

from backends.weights.formats.format import F32, U8, Format

_LARGEST = np.uint32(0x7F7F)


def _decode(blocks: U8) -> F32:
    return (blocks.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _encode(values: F32) -> U8:
    bits = values.view(np.uint32)
    # Round to nearest even: add just under half, plus one when the kept part is odd. Finite inputs cannot wrap.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    if ((rounded & np.uint32(0x7FFF)) > _LARGEST).any():
        raise FloatingPointError("overflow encountered in BF16")
    return rounded.astype("<u2").view(np.uint8)


FORMAT = Format(name="BF16", ggml_type=30, block_size=1, block_bytes=2, decode_blocks=_decode, encode_blocks=_encode)
