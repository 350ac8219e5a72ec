"""Stored blocks as integer kernels want them: unsigned codes around 2^(bits-1), a scale a group, offsets if needed.

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
from backends.weights.formats.bits import read_f16, unpack_fifth_bits, unpack_nibbles
from backends.weights.formats.k_scales import unpack_scales_and_minima
from backends.weights.tensor import StoredTensor

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Parts = tuple[U8, F32, F32 | None]
"""Of some blocks: codes `[blocks, block_size]`, scales and offsets `[blocks, groups of a block]`."""


class Splitter(msgspec.Struct, frozen=True):
    """How blocks of one format are taken apart; `group` is the number of elements that share a scale."""

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
    """Take apart a tensor whose format is in `SPLITTERS`."""
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
    groups = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    fifth = ((blocks[:, 16:48].reshape(-1, 1, 32) >> groups) & np.uint8(1)) << np.uint8(4)
    codes = unpack_nibbles(blocks[:, 48:], group_bytes=32) | fifth.reshape(-1, 256)
    scales, minima = _k_scales(blocks)
    return codes + _CENTRE_5, scales, minima + scales * 16


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
    }
)
"""By format. Five and six bits ride in eight: most kernels have 2, 4 and 8."""
