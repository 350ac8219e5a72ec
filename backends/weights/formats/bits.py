"""Bit fields shared by several formats: nibbles, pairs, single bits, float16 scales, inverse scales."""

from __future__ import annotations

import numpy as np

from backends.weights.formats.format import F32, U8

_NIBBLE_SHIFTS = np.array([0, 4], np.uint8).reshape(1, 2, 1)
_PAIR_SHIFTS = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
_PLANES = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
_BIT_SHIFTS = np.arange(32, dtype=np.uint32)
_LARGEST_INVERTIBLE = np.float32(1.0) / np.finfo(np.float32).max


def read_f16(data: U8) -> F32:
    """uint8 `[blocks, 2]` → float32 `[blocks, 1]`, little-endian."""
    return data.view("<f2").astype(np.float32)


def write_f16(values: F32) -> U8:
    """float32 `[blocks, 1]` → uint8 `[blocks, 2]`, rounded to nearest even."""
    return values.astype("<f2").view(np.uint8)


def write_finite_f16(values: F32) -> U8:
    """Same as `write_f16`. Raises `FloatingPointError` where a search found values whose squares overflow."""
    if not np.isfinite(values).all():
        raise FloatingPointError("overflow encountered in the search for a scale")
    return write_f16(values)


def unpack_nibbles(packed: U8, *, group_bytes: int) -> U8:
    """uint8 `[blocks, n]` → `[blocks, 2n]`: of each group of bytes, first all low nibbles, then all high ones."""
    groups = packed.reshape(-1, 1, group_bytes) >> _NIBBLE_SHIFTS
    return (groups & np.uint8(0x0F)).reshape(len(packed), -1)


def pack_nibbles(values: U8, *, group_bytes: int) -> U8:
    """uint8 `[blocks, 2n]` → `[blocks, n]`, the reverse of `unpack_nibbles`; bits above the nibbles are left out."""
    groups = values.reshape(len(values), -1, 2, group_bytes)
    packed: U8 = (groups[:, :, 0] & np.uint8(0x0F)) | (groups[:, :, 1] << np.uint8(4))
    return packed.reshape(len(values), -1)


def unpack_pairs(packed: U8) -> U8:
    """uint8 `[blocks, n]` → `[blocks, 4n]`: of each 32 bytes, first all lowest pairs of bits, and so on."""
    pairs = packed.reshape(len(packed), -1, 1, 32) >> _PAIR_SHIFTS
    return (pairs & np.uint8(3)).reshape(len(packed), -1)


def pack_pairs(values: U8) -> U8:
    """uint8 `[blocks, 4n]` of values 0…3 → `[blocks, n]`, the reverse of `unpack_pairs`."""
    shifted = values.reshape(len(values), -1, 4, 32) << _PAIR_SHIFTS
    packed: U8 = np.bitwise_or.reduce(shifted, axis=2)
    return packed.reshape(len(values), -1)


def unpack_planes(packed: U8) -> U8:
    """uint8 `[blocks, 32]` → `[blocks, 256]` of 0 and 1: bit g of byte i belongs to element `32 * g + i`."""
    return ((packed[:, None, :] >> _PLANES) & np.uint8(1)).reshape(len(packed), -1)


def pack_planes(values: U8) -> U8:
    """uint8 `[blocks, 256]` of 0 and 1 → `[blocks, 32]`, the reverse of `unpack_planes`."""
    packed: U8 = np.bitwise_or.reduce(values.reshape(-1, 8, 32) << _PLANES, axis=1)
    return packed


def unpack_fifth_bits(packed: U8) -> U8:
    """uint8 `[blocks, 4]` → `[blocks, 32]` with 16 where bit i of the little-endian word is set, else 0."""
    words = packed.view("<u4") >> _BIT_SHIFTS
    return (words & np.uint32(1)).astype(np.uint8) << np.uint8(4)


def pack_fifth_bits(values: U8) -> U8:
    """uint8 `[blocks, 32]` of five-bit values → `[blocks, 4]`, their top bits."""
    return np.packbits(values >> np.uint8(4), axis=-1, bitorder="little")


def inverse(scale: F32) -> F32:
    """1 / scale, and 0 where the scale is so small that its inverse would overflow (float16 stores 0 there)."""
    usable = np.abs(scale) > _LARGEST_INVERTIBLE
    return np.where(usable, np.float32(1) / np.where(usable, scale, np.float32(1)), np.float32(0))
