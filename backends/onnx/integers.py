"""Stored blocks as `MatMulNBits` wants them: unsigned codes, one scale a group, and minima where a format has them.

value = scale * (code - zero) + offset, exactly as the format's decoder computes it; nothing is quantized again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from backends.weights.formats.bits import read_f16, unpack_fifth_bits, unpack_nibbles
from backends.weights.formats.k_scales import unpack_scales_and_minima
from backends.weights.tensor import StoredTensor

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


class Integers(msgspec.Struct, frozen=True, kw_only=True):
    """A quantized matrix `[N, K]`.

    `codes`: uint8 `[N, K]`, below 2^bits; `scales`: float32 `[N, K / group]`. Without `offsets` the zero point is
    2^(bits-1); with them (float32 `[N, K / group]`) it is 0 and they are added.
    """

    bits: int
    group: int
    codes: U8
    scales: F32
    offsets: F32 | None = None


def integers_of(tensor: StoredTensor) -> Integers:
    """Split a tensor whose format is in `SPLITTERS`."""
    bits, group, block_bytes, split = SPLITTERS[tensor.format]
    rows = tensor.shape[0]
    parts = split(np.ascontiguousarray(tensor.data).reshape(-1, block_bytes))
    codes, scales, offsets = (None if part is None else part.reshape(rows, -1) for part in parts)
    assert codes is not None
    assert scales is not None
    return Integers(bits=bits, group=group, codes=codes, scales=scales, offsets=offsets)


Parts = tuple[U8, F32, F32 | None]


def _q8_0(blocks: U8) -> Parts:
    return blocks[:, 2:] ^ np.uint8(0x80), read_f16(blocks[:, :2]), None  # int8 + 128


def _q4_0(blocks: U8) -> Parts:
    return unpack_nibbles(blocks[:, 2:], group_bytes=16), read_f16(blocks[:, :2]), None


def _q4_1(blocks: U8) -> Parts:
    return unpack_nibbles(blocks[:, 4:], group_bytes=16), read_f16(blocks[:, :2]), read_f16(blocks[:, 2:4])


def _q5_0(blocks: U8) -> Parts:
    codes = unpack_nibbles(blocks[:, 6:], group_bytes=16) | unpack_fifth_bits(blocks[:, 2:6])
    return codes + np.uint8(128 - 16), read_f16(blocks[:, :2]), None


def _q5_1(blocks: U8) -> Parts:
    codes = unpack_nibbles(blocks[:, 8:], group_bytes=16) | unpack_fifth_bits(blocks[:, 4:8])
    return codes, read_f16(blocks[:, :2]), read_f16(blocks[:, 2:4])


def _q4_k(blocks: U8) -> Parts:
    return unpack_nibbles(blocks[:, 16:], group_bytes=32), *_k_scales(blocks)


def _q5_k(blocks: U8) -> Parts:
    groups = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    fifth = ((blocks[:, 16:48].reshape(-1, 1, 32) >> groups) & np.uint8(1)) << np.uint8(4)
    codes = unpack_nibbles(blocks[:, 48:], group_bytes=32) | fifth.reshape(-1, 256)
    return codes, *_k_scales(blocks)


def _q6_k(blocks: U8) -> Parts:
    pairs = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    high = (blocks[:, 128:192].reshape(-1, 1, 32) >> pairs) & np.uint8(3)
    codes = unpack_nibbles(blocks[:, :128], group_bytes=64) | (high.reshape(-1, 256) << np.uint8(4))
    scales = read_f16(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return codes + np.uint8(128 - 32), scales, None


def _k_scales(blocks: U8) -> tuple[F32, F32]:
    scales, minima = unpack_scales_and_minima(blocks[:, 4:16])
    d, dmin = read_f16(blocks[:, 0:2]), read_f16(blocks[:, 2:4])
    return d * scales[:, :, 0], -(dmin * minima[:, :, 0])


SPLITTERS: dict[str, tuple[int, int, int, Callable[[U8], Parts]]] = {
    "Q8_0": (8, 32, 34, _q8_0),
    "Q4_0": (4, 32, 18, _q4_0),
    "Q4_1": (4, 32, 20, _q4_1),
    "Q5_0": (8, 32, 22, _q5_0),
    "Q5_1": (8, 32, 24, _q5_1),
    "Q4_K": (4, 32, 144, _q4_k),
    "Q5_K": (8, 32, 176, _q5_k),
    "Q6_K": (8, 16, 210, _q6_k),
}
"""Format → (bits, group, bytes of a block, splitter)."""
