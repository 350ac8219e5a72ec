"""Codes improved one element at a time, while the fitted scale explains more (ggml-quants.c).

`make_q3_quants` does so with the signed codes of Q3_K, `make_qp_quants` with the scales of the K-formats.
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.fit_scale import SMALLEST_PEAK
from backends.weights.formats.format import F32, U8
from backends.weights.formats.groups import peak_of, round_to, sum_in_order

_ROUNDS = 5
_TRIES = tuple(i for i in range(-4, 5) if i)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def refine_signed(groups: F32, *, half: int) -> tuple[F32, U8]:
    """Scale `[groups]` and codes 0…`2 * half - 1` of `[size, groups]`, errors weighted by value²; 0 where all is 0."""
    peak = peak_of(groups)
    zero = np.abs(peak) < SMALLEST_PEAK
    peak[zero] = 1
    inverse: F32 = np.float32(-half) / peak  # ty: ignore[invalid-assignment]  # float32 stays float32
    codes = round_to(inverse * groups, -half, half - 1)
    scale = _improve(groups, groups * groups, codes, low=-half, high=half - 1)
    codes += np.float32(half)
    codes[:, zero] = scale[zero] = 0
    return scale, codes.astype(np.uint8)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def refine_unsigned(groups: F32, weights: F32, *, top: int) -> tuple[F32, U8]:
    """Scale `[groups]` and codes 0…`top` of `[size, groups]` that has no negative elements."""
    high = groups.max(axis=0)
    zero = high < SMALLEST_PEAK
    high[zero] = 1
    inverse = np.float32(top) / high
    best = _error(groups, weights, inverse, top)
    for i in _TRIES:
        tried = (np.float32(0.1) * np.float32(i) + np.float32(top)) / high
        error = _error(groups, weights, tried, top)
        better = error < best
        np.copyto(inverse, tried, where=better)
        np.copyto(best, error, where=better)
    codes = round_to(inverse * groups, 0, top)
    scale = _improve(groups, weights, codes, low=0, high=top)
    codes[:, zero] = scale[zero] = 0
    return scale, codes.astype(np.uint8)


def _error(groups: F32, weights: F32, inverse: F32, top: int) -> F32:
    scale: F32 = np.float32(1) / inverse  # ty: ignore[invalid-assignment]  # float32 stays float32
    diff = groups - scale * round_to(inverse * groups, 0, top)
    return sum_in_order(weights * diff * diff)


def _improve(groups: F32, weights: F32, codes: F32, *, low: int, high: int) -> F32:
    """Change `codes` in place; returns the fitted scale `[groups]`."""
    weighted = weights * groups
    sum_lx = sum_in_order(weighted * codes)
    sum_ll = sum_in_order(weights * codes * codes)
    for _ in range(_ROUNDS):
        changed = False
        for value, weight, weighted_value, code in zip(groups, weights, weighted, codes, strict=True):
            rest_lx = sum_lx - weighted_value * code
            rest_ll = sum_ll - weight * code * code
            new = round_to(value * rest_ll / rest_lx, low, high)
            new_lx = rest_lx + weighted_value * new
            new_ll = rest_ll + weight * new * new
            better = new_lx * new_lx * sum_ll > sum_lx * sum_lx * new_ll
            better &= (rest_lx > 0) & (rest_ll > 0) & (new_ll > 0) & (new != code)
            if better.any():
                changed = True
                np.copyto(code, new, where=better)
                np.copyto(sum_lx, new_lx, where=better)
                np.copyto(sum_ll, new_ll, where=better)
        if not changed:
            break
    scale: F32 = np.where(sum_ll > 0, sum_lx / sum_ll, np.float32(0))
    return scale
