"""Frequencies of the rotary embedding (RoFormer, arXiv:2104.09864) under each kind of scaling."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from backends.models.spec import Rope, RopeScaling

F64 = npt.NDArray[np.float64]


def rotary_frequencies(rope: Rope, head_dim: int) -> F64:
    """float64 `[head_dim / 2]`, radians a position: pair i is (i, i + head_dim / 2), half-split order."""
    plain: F64 = rope.theta ** -(np.arange(0, head_dim, 2) / head_dim)
    return plain if rope.scaling is None else plain / np.array(_divisors(plain, rope.scaling))


def rotary_amplitude(rope: Rope) -> float:
    """Factor of sine and cosine; 1 except under LongRoPE."""
    return 1.0 if rope.scaling is None else rope.scaling.attention_factor


def llama3_factors(rope: Rope, head_dim: int) -> list[float]:
    """Divisors of the `head_dim / 2` rotary frequencies (Llama 3.1's frequency blend)."""
    assert rope.scaling is not None
    return [_llama3_factor(frequency, rope.scaling) for frequency in rotary_frequencies(Rope(rope.theta), head_dim)]


def _divisors(plain: F64, scaling: RopeScaling) -> list[float]:
    if scaling.kind == "llama3":
        return [_llama3_factor(frequency, scaling) for frequency in plain]
    if scaling.kind == "factors":
        return list(scaling.factors)
    assert scaling.kind == "linear", scaling.kind
    return [scaling.factor] * len(plain)


def _llama3_factor(frequency: float, scaling: RopeScaling) -> float:
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original_context / scaling.high_freq_factor:
        return 1.0
    if wavelength > scaling.original_context / scaling.low_freq_factor:
        return scaling.factor
    blend = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    return 1.0 / ((1.0 - blend) / scaling.factor + blend)
