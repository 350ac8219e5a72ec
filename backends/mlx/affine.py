"""Stored blocks as MLX's affine groups: value = scale * code + bias, codes packed to their true width."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from backends.errors import UnsupportedModel
from backends.weights.integers import Integers, integers_of
from backends.weights.tensor import StoredTensor

F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]

_WIDTHS = {"Q2_K": 2, "Q3_K": 3, "Q5_0": 5, "Q5_1": 5, "Q5_K": 5, "Q6_K": 6}
"""Formats whose codes are stored elsewhere in wider ones, centred there."""
_SMALLEST_GROUP = 32
_GROUPS = (32, 64, 128)
"""Group sizes that MLX has kernels for; others may return garbage without an error, so they are never used."""


class AffineParts(msgspec.Struct, frozen=True, kw_only=True):
    """`codes` uint32 `[N, K * bits / 32]`; `scales` and `biases` float32 `[N, K / group]`, twice if `halves`."""

    bits: int
    group: int
    halves: bool
    codes: U32
    scales: tuple[F32, ...]
    biases: tuple[F32, ...]


def affine_parts(tensor: StoredTensor) -> AffineParts:
    """Exact: the products' operands are the decoder's values. Raises `UnsupportedModel` for groups MLX has not."""
    integers = integers_of(tensor)
    bits = _WIDTHS.get(tensor.format, integers.bits)
    centre = 1 << (bits - 1)
    codes = integers.codes - np.uint8((1 << (integers.bits - 1)) - centre)
    biases = _biases(integers, centre)
    halves = integers.group == _SMALLEST_GROUP // 2
    group = _SMALLEST_GROUP if halves else integers.group
    repeat = 1
    if group > _GROUPS[-1]:  # one scale for several of MLX's groups
        repeat, group = group // _GROUPS[-1], _GROUPS[-1]
    if group not in _GROUPS or tensor.shape[1] % group:
        raise UnsupportedModel(
            f"tensor {tensor.name!r}: rows of {tensor.shape[1]} do not divide into groups of {group}"
        )
    return AffineParts(
        bits=bits,
        group=group,
        halves=halves,
        codes=_pack(codes, bits),
        scales=_by_half(integers.scales, halves, repeat),
        biases=_by_half(biases, halves, repeat),
    )


def _biases(integers: Integers, centre: int) -> F32:
    shift: F32 = -integers.scales * np.float32(centre)
    return shift if integers.offsets is None else shift + integers.offsets


def _by_half(values: F32, halves: bool, repeat: int) -> tuple[F32, ...]:
    if halves:
        return np.ascontiguousarray(values[:, 0::2]), np.ascontiguousarray(values[:, 1::2])
    return (np.repeat(values, repeat, axis=1),)


def _pack(codes: npt.NDArray[np.uint8], bits: int) -> U32:
    """A little-endian stream of `bits` a code along each row."""
    stream = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little")
    packed = np.packbits(stream.reshape(len(codes), -1), axis=1, bitorder="little")
    return packed.view("<u4")
