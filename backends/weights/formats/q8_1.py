"""Q8_1 (`block_q8_1` in ggml-common.h): 32 elements in 36 bytes.

f16 d | f16 s | i8 q[32]  value = d * q; s = d * (the sum of all q) serves dot products and is not read here

ggml uses this format at run time only, and files with it are rare. Those of the gguf package, whose tables count
40 bytes a block, have ggml's first layout: f32 d | f32 s | i8 q[32]. Both are read, 36 bytes are written. Runners get
36 bytes, too: d and s of the first layout are rounded to float16, so weights may change by 1 part in 2048, and those
of blocks whose d is below 6e-5, which float16 stores less precisely, by up to 4e-6.
"""

from __future__ import annotations

import numpy as np

from backends.errors import ModelError
from backends.weights.formats.bits import inverse, read_f16, write_f16
from backends.weights.formats.format import F32, U8, Format
from backends.weights.formats.q8_0 import round_half_away


def _decode(blocks: U8) -> F32:
    return blocks[:, 4:].view(np.int8).astype(np.float32) * read_f16(blocks[:, :2])


def _encode(values: F32) -> U8:
    scale, quants = _quantized(values)
    return np.concatenate([write_f16(scale), write_f16(_sums(scale, quants)), quants.view(np.uint8)], axis=1)


def _decode_wide(blocks: U8) -> F32:
    scale = np.ascontiguousarray(blocks[:, :4]).view("<f4").astype(np.float32)
    return blocks[:, 8:].view(np.int8).astype(np.float32) * scale


def _encode_wide(values: F32) -> U8:
    scale, quants = _quantized(values)
    halves = np.concatenate([scale, _sums(scale, quants)], axis=1).astype("<f4")
    return np.concatenate([halves.view(np.uint8), quants.view(np.uint8)], axis=1)


def narrow(wide: U8) -> U8:
    """Convert uint8 `[blocks, 40]` of the older layout to `[blocks, 36]`: the same codes, d and s rounded to float16.

    Raises `ModelError` where float16 cannot represent one of them.
    """
    blocks = np.empty((len(wide), 36), np.uint8)
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(wide[:, :8]).view("<f4").astype("<f2")
    if not np.isfinite(halves).all():
        raise ModelError("a scale or sum of Q8_1 with float32 scales is beyond float16; convert the model to Q8_0 anew")
    blocks[:, :4] = halves.view(np.uint8)
    blocks[:, 4:] = wide[:, 8:]
    return blocks


def _quantized(values: F32) -> tuple[F32, np.ndarray[tuple[int, ...], np.dtype[np.int8]]]:
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    return scale, round_half_away(values * inverse(scale)).astype(np.int8)


def _sums(scale: F32, quants: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> F32:
    sums: F32 = quants.sum(axis=1, keepdims=True, dtype=np.int32).astype(np.float32) * scale
    return sums


WIDE = Format(
    name="Q8_1 with float32 scales",
    ggml_type=9,
    block_size=32,
    block_bytes=40,
    decode_blocks=_decode_wide,
    encode_blocks=_encode_wide,
)

FORMAT = Format(
    name="Q8_1",
    ggml_type=9,
    block_size=32,
    block_bytes=36,
    decode_blocks=_decode,
    encode_blocks=_encode,
    wider=WIDE,
)
