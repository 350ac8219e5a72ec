"""The scale and minimum of a group by weighted least squares (`make_qkx2_quants`, `make_qkx3_quants` in ggml-quants.c).

Each try spreads the codes a little differently, fits scale and minimum to them, and is kept if the weighted error
falls. The minimum is never above zero, so that it can be stored without a sign. As in the source, a kept minimum is
where the next try counts its codes from.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from backends.weights.formats.format import F32, U8
from backends.weights.formats.groups import lowest_of, round_to, sum_in_order

_SMALLEST_SPAN = np.float32(1e-30)
"""Groups that span less are flat: float16 scales could not separate them, and the inverse might overflow."""


class Tries(msgspec.Struct, frozen=True):
    """Try i spreads the codes over `top + first + i * step` levels; there are `count + 1` tries."""

    first: float
    step: float
    count: int

    def levels(self, top: int) -> list[np.float32]:
        first, step = np.float32(self.first), np.float32(self.step)
        return [first + step * np.float32(i) + np.float32(top) for i in range(self.count + 1)]


WEIGHTED_TRIES = Tries(-0.9, 0.05, 36)
"""Tries that the source uses for every format where an importance is given."""


class Affine(msgspec.Struct, frozen=True):
    """value ≈ scale * code - minimum, each `[groups]`; the codes found are those of `inverse * (value - base)`."""

    scale: F32
    minimum: F32
    inverse: F32
    base: F32

    def codes(self, groups: F32, top: int) -> U8:
        """uint8 `[size, groups]`, as the search left them."""
        return round_to(self.inverse * (groups - self.base), 0, top).astype(np.uint8)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def fit_affine(groups: F32, weights: F32, *, top: int, tries: Tries, absolute: bool = False) -> Affine:
    """Fit `[size, groups]` with codes 0…`top`; `absolute` measures the size of errors instead of their square."""
    search = _Search(groups, weights, top=top, absolute=absolute)
    for levels in tries.levels(top):
        search.attempt(levels)
    return search.result()


class _Search:
    """The best fit so far of every group, and buffers of the groups' size."""

    def __init__(self, groups: F32, weights: F32, *, top: int, absolute: bool) -> None:
        self._groups, self._weights, self._top, self._absolute = groups, weights, top, absolute
        self._codes, self._weighted, self._terms = (np.empty_like(groups) for _ in range(3))
        self._high = groups.max(axis=0)
        low = lowest_of(groups)
        self._low = np.where(low > 0, np.float32(0), low)
        self._flat = ~(self._high - self._low > _SMALLEST_SPAN)
        self._sum_w = sum_in_order(weights)
        self._sum_x = sum_in_order(np.multiply(weights, groups, out=self._terms))
        self._inverse = self._spread(np.float32(top))
        self._base = self._low.copy()
        self._scale: F32 = np.float32(1) / self._inverse  # ty: ignore[invalid-assignment]  # float32 stays float32
        self._error = self._error_of(self._scale, self._low)

    def attempt(self, levels: np.float32) -> None:
        inverse = self._spread(levels)
        sum_l, sum_ll, sum_lx = self._sums()
        determinant: F32 = self._sum_w * sum_ll - sum_l * sum_l
        slope: F32 = self._sum_w * sum_lx - self._sum_x * sum_l
        base: F32 = sum_ll * self._sum_x - sum_l * sum_lx
        scale: F32 = slope / determinant
        low: F32 = base / determinant
        above = np.flatnonzero(low > 0)
        scale[above] = sum_lx[above] / sum_ll[above]
        low[above] = 0
        error = self._error_of(scale, low)
        self._keep((determinant > 0) & (error < self._error), inverse, scale, low, error)

    def result(self) -> Affine:
        zero = np.float32(0)
        scale: F32 = np.where(self._flat, zero, self._scale)
        inverse: F32 = np.where(self._flat, zero, self._inverse)
        return Affine(scale=scale, minimum=-self._low, inverse=inverse, base=self._base)

    def _spread(self, levels: np.float32) -> F32:
        """Choose the codes; returns the inverse scale that gave them."""
        span: F32 = np.where(self._flat, np.float32(1), self._high - self._low)
        inverse: F32 = levels / span  # ty: ignore[invalid-assignment]  # float32 stays float32
        np.subtract(self._groups, self._low, out=self._codes)
        np.multiply(self._codes, inverse, out=self._codes)
        round_to(self._codes, 0, self._top)
        return inverse

    def _sums(self) -> tuple[F32, F32, F32]:
        """Weighted sums of code, code² and code * value."""
        np.multiply(self._weights, self._codes, out=self._weighted)
        sum_l = sum_in_order(self._weighted)
        sum_ll = sum_in_order(np.multiply(self._weighted, self._codes, out=self._terms))
        return sum_l, sum_ll, sum_in_order(np.multiply(self._weighted, self._groups, out=self._terms))

    def _error_of(self, scale: F32, low: F32) -> F32:
        terms = np.multiply(self._codes, scale, out=self._terms)
        np.add(terms, low, out=terms)
        np.subtract(terms, self._groups, out=terms)
        if self._absolute:
            np.abs(terms, out=terms)
        else:
            np.square(terms, out=terms)
        return sum_in_order(np.multiply(self._weights, terms, out=terms))

    def _keep(self, better: npt.NDArray[np.bool_], inverse: F32, scale: F32, low: F32, error: F32) -> None:
        np.copyto(self._base, self._low, where=better)
        np.copyto(self._inverse, inverse, where=better)
        np.copyto(self._scale, scale, where=better)
        np.copyto(self._low, low, where=better)
        np.copyto(self._error, error, where=better)
