"""The scale of a group of signed codes by weighted least squares (`make_qx_quants` in ggml-quants.c).

The element of largest size gets nearly the most negative code, which has no positive twin; eighteen tries stretch
the codes a little, and the one of which the fitted scale explains most is kept.
"""

from __future__ import annotations

import msgspec
import numpy as np

from backends.weights.formats.format import F32, U8
from backends.weights.formats.groups import peak_of, round_to, sum_in_order

SMALLEST_PEAK = np.float32(1e-15)
"""Groups whose largest element is smaller are zero (`GROUP_MAX_EPS`)."""

_TRIES = tuple(i for i in range(-9, 10) if i)


class Scaled(msgspec.Struct, frozen=True):
    """value ≈ scale * (code - half), each `[groups]`; the codes found are those of `inverse * value`."""

    scale: F32
    inverse: F32

    def codes(self, groups: F32, half: int) -> U8:
        """uint8 `[size, groups]` of codes 0…`2 * half - 1`, as the search left them; 0 in groups that are zero."""
        codes = round_to(self.inverse * groups, -half, half - 1) + np.float32(half)
        return np.where(self.inverse == 0, np.float32(0), codes).astype(np.uint8)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def fit_scale(groups: F32, weights: F32, *, half: int) -> Scaled:
    """Fit `[size, groups]` with codes `-half`…`half - 1`."""
    peak = peak_of(groups)
    zero = np.abs(peak) < SMALLEST_PEAK
    peak[zero] = 1
    weighted, codes, terms = weights * groups, np.empty_like(groups), np.empty_like(groups)

    def sums(inverse: F32) -> tuple[F32, F32]:
        round_to(np.multiply(groups, inverse, out=codes), -half, half - 1)
        sum_lx = sum_in_order(np.multiply(weighted, codes, out=terms))
        np.multiply(weights, codes, out=terms)
        return sum_lx, sum_in_order(np.multiply(terms, codes, out=terms))

    inverse: F32 = np.float32(-half) / peak  # ty: ignore[invalid-assignment]  # float32 stays float32
    sum_lx, sum_ll = sums(inverse)
    scale = np.where(sum_ll != 0, sum_lx / sum_ll, np.float32(0))
    best = scale * sum_lx
    for i in _TRIES:
        tried: F32 = -(np.float32(half) + np.float32(0.1) * np.float32(i)) / peak  # ty: ignore[invalid-assignment]  # float32 stays float32
        sum_lx, sum_ll = sums(tried)
        better = (sum_ll > 0) & (sum_lx * sum_lx > best * sum_ll)
        np.copyto(inverse, tried, where=better)
        np.copyto(scale, sum_lx / sum_ll, where=better)
        np.copyto(best, scale * sum_lx, where=better)
    scale[zero] = inverse[zero] = 0
    return Scaled(scale=scale, inverse=inverse)
