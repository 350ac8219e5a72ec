"""Quantized blocks in torch: the formats of `backends.weights.formats`, decoded on the device, to the same bits.

Each field of the blocks has its own tensor, so that its bytes are contiguous; not one bit is added. The
layouts of the fields are documented with the formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec
import torch
from torch import Tensor


class BlockFormat(msgspec.Struct, frozen=True):
    """`fields`: widths in bytes, in the order of the file.

    `decode`: one uint8 `[blocks, width]` a field → float32 `[blocks, block_size]`.
    """

    fields: tuple[int, ...]
    decode: Callable[[Sequence[Tensor]], Tensor]


def _f16(field: Tensor) -> Tensor:
    return field.view(torch.float16).float()


def _f32(fields: Sequence[Tensor]) -> Tensor:
    return fields[0].view(torch.float32)


def _half(fields: Sequence[Tensor]) -> Tensor:
    return _f16(fields[0])


def _bf16(fields: Sequence[Tensor]) -> Tensor:
    return fields[0].view(torch.bfloat16).float()


def _q8_0(fields: Sequence[Tensor]) -> Tensor:
    scale, codes = fields
    return codes.view(torch.int8).float().mul_(_f16(scale))


def _q8_1(fields: Sequence[Tensor]) -> Tensor:
    scale, _sums, codes = fields
    return codes.view(torch.int8).float().mul_(_f16(scale))


def _q8_k(fields: Sequence[Tensor]) -> Tensor:
    scale, codes, _sums = fields
    return codes.view(torch.int8).float().mul_(scale.view(torch.float32))


def _q4_0(fields: Sequence[Tensor]) -> Tensor:
    scale, codes = fields
    return _centred(_nibbles(codes, group=16), 8).mul_(_f16(scale))


def _q4_1(fields: Sequence[Tensor]) -> Tensor:
    scale, minimum, codes = fields
    return torch.addcmul(_f16(minimum), _nibbles(codes, group=16).float(), _f16(scale))


def _q5_0(fields: Sequence[Tensor]) -> Tensor:
    scale, high, codes = fields
    return _centred(_nibbles(codes, group=16) | _fifth_bits(high), 16).mul_(_f16(scale))


def _q5_1(fields: Sequence[Tensor]) -> Tensor:
    scale, minimum, high, codes = fields
    quants = _nibbles(codes, group=16) | _fifth_bits(high)
    return torch.addcmul(_f16(minimum), quants.float(), _f16(scale))


def _q2_k(fields: Sequence[Tensor]) -> Tensor:
    levels, codes, scale, minimum = fields
    lows = (_f16(minimum) * (levels >> 4).float()).neg_().unsqueeze(2)
    scales = (_f16(scale) * (levels & 0x0F).float()).unsqueeze(2)
    return torch.addcmul(lows, _pairs(codes).view(-1, 16, 16).float(), scales).view(-1, 256)


def _q3_k(fields: Sequence[Tensor]) -> Tensor:
    high, codes, packed, scale = fields
    high_levels = (packed[:, 8:].unsqueeze(1) >> _shifts(4, 2, packed).view(1, 4, 1)) & 3
    levels = _nibbles(packed[:, :8], group=8) | (high_levels.view(-1, 16) << 4)
    third_bits = ((high.unsqueeze(1) >> _shifts(8, 1, high).view(1, 8, 1)) & 1) << 2
    quants = _centred(_pairs(codes) | third_bits.view(-1, 256), 4)
    scales = _f16(scale) * _centred(levels, 32)
    return quants.view(-1, 16, 16).mul_(scales.unsqueeze(2)).view(-1, 256)


def _q4_k(fields: Sequence[Tensor]) -> Tensor:
    scale, minimum, packed, codes = fields
    return _k_values(scale, minimum, packed, _nibbles(codes, group=32).view(-1, 8, 32))


def _q5_k(fields: Sequence[Tensor]) -> Tensor:
    scale, minimum, packed, high, codes = fields
    fifth = ((high.unsqueeze(1) >> _shifts(8, 1, high).view(1, 8, 1)) & 1) << 4
    return _k_values(scale, minimum, packed, _nibbles(codes, group=32).view(-1, 8, 32) | fifth)


def _q6_k(fields: Sequence[Tensor]) -> Tensor:
    low, high, packed, scale = fields
    scales = _f16(scale) * packed.view(torch.int8).float()
    codes = _nibbles(low, group=64) | (_pairs(high) << 4)
    return _centred(codes, 32).view(-1, 16, 16).mul_(scales.unsqueeze(2)).view(-1, 256)


def _k_values(scale: Tensor, minimum: Tensor, packed: Tensor, quants: Tensor) -> Tensor:
    """The twelve `packed` bytes hold eight 6-bit scales and eight 6-bit minima, as in `k_scales`."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = torch.cat((first & 0x3F, (third & 0x0F) | ((first >> 2) & 0x30)), dim=1)
    minima = torch.cat((second & 0x3F, (third >> 4) | ((second >> 2) & 0x30)), dim=1)
    lows = (_f16(minimum) * minima.float()).neg_().unsqueeze(2)
    return torch.addcmul(lows, quants.float(), (_f16(scale) * scales.float()).unsqueeze(2)).view(-1, 256)


def _nibbles(packed: Tensor, *, group: int) -> Tensor:
    """uint8 `[blocks, n]` → `[blocks, 2n]`: of each group of bytes, first all low nibbles, then all high ones."""
    groups = packed.view(len(packed), -1, group)
    return torch.stack((groups & 0x0F, groups >> 4), dim=2).view(len(packed), -1)


def _pairs(packed: Tensor) -> Tensor:
    """uint8 `[blocks, n]` → `[blocks, 4n]`: of each 32 bytes, first all lowest pairs of bits, and so on."""
    pairs = (packed.view(len(packed), -1, 1, 32) >> _shifts(4, 2, packed).view(1, 1, 4, 1)) & 3
    return pairs.view(len(packed), -1)


def _fifth_bits(packed: Tensor) -> Tensor:
    """uint8 `[blocks, 4]` → `[blocks, 32]` with 16 where bit i of the little-endian word is set, else 0."""
    bits = (packed.unsqueeze(2) >> _shifts(8, 1, packed)) & 1
    return bits.view(len(packed), 32) << 4


def _shifts(count: int, step: int, like: Tensor) -> Tensor:
    return torch.arange(0, count * step, step, dtype=torch.uint8, device=like.device)


def _centred(codes: Tensor, centre: int) -> Tensor:
    return codes.view(torch.int8).sub_(centre).float()


BLOCK_FORMATS: Mapping[str, BlockFormat] = MappingProxyType(
    {
        "F32": BlockFormat((4,), _f32),
        "F16": BlockFormat((2,), _half),
        "BF16": BlockFormat((2,), _bf16),
        "Q8_0": BlockFormat((2, 32), _q8_0),
        "Q8_1": BlockFormat((2, 2, 32), _q8_1),
        "Q4_0": BlockFormat((2, 16), _q4_0),
        "Q4_1": BlockFormat((2, 2, 16), _q4_1),
        "Q5_0": BlockFormat((2, 4, 16), _q5_0),
        "Q5_1": BlockFormat((2, 2, 4, 16), _q5_1),
        "Q2_K": BlockFormat((16, 64, 2, 2), _q2_k),
        "Q3_K": BlockFormat((32, 64, 12, 2), _q3_k),
        "Q4_K": BlockFormat((2, 2, 12, 128), _q4_k),
        "Q5_K": BlockFormat((2, 2, 12, 32, 128), _q5_k),
        "Q6_K": BlockFormat((128, 64, 16, 2), _q6_k),
        "Q8_K": BlockFormat((4, 256, 32), _q8_k),
    }
)
"""Block formats by the names of `backends.weights.formats`."""
