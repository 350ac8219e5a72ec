"""F32: IEEE 754 binary32, little-endian."""

from __future__ import annotations

import numpy as np

from backends.weights.formats.format import F32, U8, Format


def _decode(blocks: U8) -> F32:
    return blocks.view("<f4").astype(np.float32, copy=False)


def _encode(values: F32) -> U8:
    return values.astype("<f4", copy=False).view(np.uint8)


FORMAT = Format(name="F32", ggml_type=0, block_size=1, block_bytes=4, decode_blocks=_decode, encode_blocks=_encode)
