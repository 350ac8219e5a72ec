"""Shared parts of Q2_K, Q4_K and Q5_K: 256 elements, groups with scale and minimum, packed 6-bit scales.

bytes 0…3    2 high bits of scale 4…7 | 6 bits of scale 0…3
bytes 4…7    2 high bits of min   4…7 | 6 bits of min   0…3
bytes 8…11   4 low bits of min 4…7    | 4 low bits of scale 4…7

The scales and minima of a block's groups are themselves quantized, then every code is chosen again for the scale and
minimum that will be read back (`quantize_row_q4_K_ref`, `quantize_row_q4_K_impl` and their siblings in
ggml-quants.c).
"""

from __future__ import annotations

import msgspec
import numpy as np

from backends.weights.formats.bits import read_f16, write_finite_f16
from backends.weights.formats.fit_affine import WEIGHTED_TRIES, Affine, Tries, fit_affine
from backends.weights.formats.format import F32, U8
from backends.weights.formats.groups import (
    from_groups,
    importance_weights,
    mean_square,
    round_to,
    sum_in_order,
    to_groups,
)
from backends.weights.formats.refine import refine_unsigned


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


BLOCK = 256
_SMALLEST = np.float32(1e-30)
"""Scales below are zero: a float16 cannot represent them, and their inverse might overflow."""


class AffineBlocks(msgspec.Struct, frozen=True):
    """uint8: two float16 `[blocks, 2]`, two `[blocks, groups of a block]` of few bits, codes `[blocks, 256]`."""

    scale: U8
    minimum: U8
    scales: U8
    minima: U8
    codes: U8


class AffineGroups(msgspec.Struct, frozen=True, kw_only=True):
    """Groups of `size` elements with codes 0…`top`, their scales and minima 0…`level_top`."""

    size: int
    top: int
    level_top: int

    def encode(self, groups: F32, weights: F32, *, tries: Tries, absolute: bool = False) -> AffineBlocks:
        """Encode `[size, groups]`; every block's largest scale and minimum get the largest level."""
        fit = fit_affine(groups, weights, top=self.top, tries=tries, absolute=absolute)
        scale, scales = self._levels(fit.scale)
        minimum, minima = self._levels(fit.minimum)
        return self._requantized(groups, fit, AffineBlocks(scale, minimum, scales, minima, codes=scales))

    def encode_weighted(self, rows: F32, importance: F32, *, spread_factor: int) -> AffineBlocks:
        """Encode `[rows, columns]` with an importance for each column; the levels are weighted likewise.

        `spread_factor`: how often the block's mean square counts in the weights.
        """
        blocks = rows.reshape(-1, BLOCK)
        spread = np.float32(spread_factor) * mean_square(blocks)
        each = np.broadcast_to(importance, rows.shape).reshape(-1, BLOCK)
        weights = to_groups(importance_weights(blocks, each, spread), self.size)
        groups = to_groups(blocks, self.size)
        fit = fit_affine(groups, weights, top=self.top, tries=WEIGHTED_TRIES)
        found, levels = self._weighted_levels(fit, sum_in_order(weights))
        scale, minimum = (write_finite_f16(half.reshape(-1, 1)) for half in np.split(found, 2))
        scales, minima = (np.ascontiguousarray(half.T) for half in np.split(levels, 2, axis=1))
        return self._requantized(groups, fit, AffineBlocks(scale, minimum, scales, minima, codes=scales))

    def _levels(self, found: F32) -> tuple[U8, U8]:
        of_block = found.reshape(-1, BLOCK // self.size)
        high = np.maximum(of_block.max(axis=1, keepdims=True), np.float32(0))
        usable = high > _SMALLEST
        inverse = np.where(usable, np.float32(self.level_top) / np.where(usable, high, np.float32(1)), np.float32(0))
        with np.errstate(invalid="ignore"):  # a search that overflowed is refused by the next line
            levels = round_to(inverse * of_block, 0, self.level_top).astype(np.uint8)
        return write_finite_f16(high / np.float32(self.level_top)), levels

    def _weighted_levels(self, fit: Affine, sums: F32) -> tuple[F32, U8]:
        """Scales and minima side by side in one search, scales first."""
        per_block = BLOCK // self.size
        both = np.concatenate([fit.scale, fit.minimum])
        return refine_unsigned(to_groups(both, per_block), to_groups(np.tile(sums, 2), per_block), top=self.level_top)

    def _requantized(self, groups: F32, fit: Affine, blocks: AffineBlocks) -> AffineBlocks:
        scale = (read_f16(blocks.scale) * blocks.scales).reshape(-1)
        minimum = (read_f16(blocks.minimum) * blocks.minima).reshape(-1)
        lost = scale == 0
        divisor: F32 = np.where(lost, np.float32(1), scale)
        above: F32 = groups + minimum
        codes = round_to(above / divisor, 0, self.top).astype(np.uint8)
        if lost.any():  # such a group is its minimum whatever the codes; the source leaves those of the search
            codes[:, lost] = fit.codes(groups, self.top)[:, lost]
        return msgspec.structs.replace(blocks, codes=from_groups(codes, BLOCK))
