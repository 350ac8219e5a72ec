"""Bit fields shared by several formats: nibbles, fifth bits, float16 scales, inverse scales."""

from __future__ import annotations

import numpy as np

from backends.weights.formats.format import F32, U8

_NIBBLE_SHIFTS = np.array([0, 4], np.uint8).reshape(1, 2, 1)
_BIT_SHIFTS = np.arange(32, dtype=np.uint32)
_LARGEST_INVERTIBLE = np.float32(1.0) / np.finfo(np.float32).max


def read_f16(data: U8) -> F32:
    """uint8 `[blocks, 2]` → float32 `[blocks, 1]`, little-endian."""
    return data.view("<f2").astype(np.float32)


def write_f16(values: F32) -> U8:
    """float32 `[blocks, 1]` → uint8 `[blocks, 2]`, rounded to nearest even."""
    return values.astype("<f2").view(np.uint8)


def unpack_nibbles(packed: U8, *, group_bytes: int) -> U8:
    """uint8 `[blocks, n]` → `[blocks, 2n]`: of each group of bytes, first all low nibbles, then all high ones."""
    groups = packed.reshape(-1, 1, group_bytes) >> _NIBBLE_SHIFTS
    return (groups & np.uint8(0x0F)).reshape(len(packed), -1)


def pack_nibbles(values: U8) -> U8:
    """uint8 `[blocks, 32]` → `[blocks, 16]`: low nibbles of the first half, high nibbles of the second."""
    return (values[:, :16] & np.uint8(0x0F)) | (values[:, 16:] << np.uint8(4))


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
