"""Stored blocks for integer kernels: unsigned codes around 2^(bits-1), a scale a group, offsets if needed.

value = scale * (code - 2^(bits-1)) + offset, as the format's decoder computes it; nothing is quantized again.

Formats with a minimum m store value = scale * q + m. Their codes are centred too and the offset is m + scale * centre:
a small number, so the rounding of activations to int8 costs half of what it does with zero point 0 and a large m.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec
import numpy as np
import numpy.typing as npt

from backends.weights.formats import FORMATS
from backends.weights.formats.bits import read_f16, unpack_fifth_bits, unpack_nibbles, unpack_pairs, unpack_planes
from backends.weights.formats.k_affine import unpack_scales_and_minima
from backends.weights.formats.q3_k import unpack_levels
from backends.weights.tensor import StoredTensor

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Parts = tuple[U8, F32, F32 | None]
"""Parts of some blocks: codes `[blocks, block_size]`, scales and offsets `[blocks, groups of a block]`."""


class Splitter(msgspec.Struct, frozen=True):
    """Splits blocks of one format; `group` is the number of elements that share a scale."""

    bits: int
    group: int
    split: Callable[[U8], Parts]


class Integers(msgspec.Struct, frozen=True, kw_only=True):
    """A quantized matrix: `codes` uint8 `[N, K]`, `scales` and `offsets` float32 `[N, K / group]`."""

    bits: int
    group: int
    codes: U8
    scales: F32
    offsets: F32 | None


def integers_of(tensor: StoredTensor) -> Integers:
    """Split a tensor whose format is in `SPLITTERS`."""
    splitter = SPLITTERS[tensor.format]
    blocks = np.ascontiguousarray(tensor.data).reshape(-1, FORMATS[tensor.format].block_bytes)
    codes, scales, offsets = splitter.split(blocks)
    rows = tensor.shape[0]
    return Integers(
        bits=splitter.bits,
        group=splitter.group,
        codes=codes.reshape(rows, -1),
        scales=scales.reshape(rows, -1),
        offsets=None if offsets is None else offsets.reshape(rows, -1),
    )


_CENTRE_5 = np.uint8(128 - 16)
"""Moves five-bit codes to the middle of eight bits."""


def _q8_0(blocks: U8) -> Parts:
    return blocks[:, 2:] ^ np.uint8(0x80), read_f16(blocks[:, :2]), None  # int8 + 128


def _q4_0(blocks: U8) -> Parts:
    return unpack_nibbles(blocks[:, 2:], group_bytes=16), read_f16(blocks[:, :2]), None


def _q4_1(blocks: U8) -> Parts:
    scales, minima = read_f16(blocks[:, :2]), read_f16(blocks[:, 2:4])
    return unpack_nibbles(blocks[:, 4:], group_bytes=16), scales, minima + scales * 8


def _q5_0(blocks: U8) -> Parts:
    codes = unpack_nibbles(blocks[:, 6:], group_bytes=16) | unpack_fifth_bits(blocks[:, 2:6])
    return codes + _CENTRE_5, read_f16(blocks[:, :2]), None


def _q5_1(blocks: U8) -> Parts:
    codes = unpack_nibbles(blocks[:, 8:], group_bytes=16) | unpack_fifth_bits(blocks[:, 4:8])
    scales, minima = read_f16(blocks[:, :2]), read_f16(blocks[:, 2:4])
    return codes + _CENTRE_5, scales, minima + scales * 16


def _q4_k(blocks: U8) -> Parts:
    scales, minima = _k_scales(blocks)
    return unpack_nibbles(blocks[:, 16:], group_bytes=32), scales, minima + scales * 8


def _q5_k(blocks: U8) -> Parts:
    fifth = unpack_planes(blocks[:, 16:48]) << np.uint8(4)
    codes = unpack_nibbles(blocks[:, 48:], group_bytes=32) | fifth
    scales, minima = _k_scales(blocks)
    return codes + _CENTRE_5, scales, minima + scales * 16


def _q6_k(blocks: U8) -> Parts:
    high = unpack_pairs(blocks[:, 128:192]) << np.uint8(4)
    codes = unpack_nibbles(blocks[:, :128], group_bytes=64) | high
    scales = read_f16(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return codes + np.uint8(128 - 32), scales, None


def _q2_k(blocks: U8) -> Parts:
    scales = read_f16(blocks[:, 80:82]) * (blocks[:, :16] & np.uint8(0x0F))
    minima = read_f16(blocks[:, 82:84]) * (blocks[:, :16] >> np.uint8(4))
    return unpack_pairs(blocks[:, 16:80]) + np.uint8(8 - 2), scales, scales * 2 - minima


def _q3_k(blocks: U8) -> Parts:
    codes = unpack_pairs(blocks[:, 32:96]) | (unpack_planes(blocks[:, :32]) << np.uint8(2))
    scales = read_f16(blocks[:, 108:]) * (unpack_levels(blocks[:, 96:108]).astype(np.float32) - np.float32(32))
    return codes + np.uint8(8 - 4), scales, None


def _q8_1(blocks: U8) -> Parts:
    return blocks[:, 4:] ^ np.uint8(0x80), read_f16(blocks[:, :2]), None


def _q8_k(blocks: U8) -> Parts:
    scales = np.ascontiguousarray(blocks[:, :4]).view("<f4").astype(np.float32)
    return blocks[:, 4:260] ^ np.uint8(0x80), scales, None


def _k_scales(blocks: U8) -> tuple[F32, F32]:
    scales, minima = unpack_scales_and_minima(blocks[:, 4:16])
    d, dmin = read_f16(blocks[:, 0:2]), read_f16(blocks[:, 2:4])
    return d * scales[:, :, 0], -(dmin * minima[:, :, 0])


SPLITTERS: Mapping[str, Splitter] = MappingProxyType(
    {
        "Q8_0": Splitter(8, 32, _q8_0),
        "Q4_0": Splitter(4, 32, _q4_0),
        "Q4_1": Splitter(4, 32, _q4_1),
        "Q5_0": Splitter(8, 32, _q5_0),
        "Q5_1": Splitter(8, 32, _q5_1),
        "Q4_K": Splitter(4, 32, _q4_k),
        "Q5_K": Splitter(8, 32, _q5_k),
        "Q6_K": Splitter(8, 16, _q6_k),
        "Q8_1": Splitter(8, 32, _q8_1),
        "Q8_K": Splitter(8, 256, _q8_k),
        "Q2_K": Splitter(4, 16, _q2_k),
        "Q3_K": Splitter(4, 16, _q3_k),
    }
)
"""Splitters by format. Two and three bits are stored in four, five and six in eight: integer kernels have few widths.
"""
