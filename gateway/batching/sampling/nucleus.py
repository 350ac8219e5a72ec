"""Draws a token from a row of logits: temperature, min_p, top_k, top_p, counter-based randomness.

A plain version that sorts everything is in the tests. This one keeps the row dense, sets what is filtered out to
zero and looks for cuts instead of sorting: sorting a vocabulary costs more than a small model's whole step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backends.generation import Sampling

_MASK64 = (1 << 64) - 1


def uniform(seed: int, index: int) -> float:
    """Uniform number in [0, 1) that is the same whatever else is in the batch, and on every machine.

    Philox4x64 (Salmon et al., SC'11) with the seed as key and the output index in the second counter word; the first
    word is left for further draws of the same token.
    """
    bits = np.random.Philox(key=seed & _MASK64, counter=(index & _MASK64) << 64).random_raw()
    return (int(bits) >> 11) * 2.0**-53


F32 = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]

_NEGLIGIBLE = 1e-3
"""Weight, relative to the best token's, below which a peaked distribution's tail is looked at only in total."""
_SMALL = 512
"""Size up to which sorting is cheaper than halving."""
_BLOCK = 256


def draw(logits: F32, peak: float, sampling: Sampling, *, uniform: float) -> int:
    """Token id drawn by inverting the cumulative distribution at `uniform` ∈ [0, 1).

    `logits`: [vocab], finite or -inf (banned); `peak` is their maximum and finite. Ties at a cut keep the lower ids.
    """
    # The best token gets weight exp(0) = 1, so min_p is an absolute bound.
    weights = np.exp((logits - np.float32(peak)) / np.float32(sampling.temperature))
    if sampling.min_p > 0.0:
        weights[weights < min(sampling.min_p, 1.0)] = 0.0
    if 0 < sampling.top_k < len(weights):
        _keep(weights, *_rank(weights, sampling.top_k))
    if sampling.top_p < 1.0:
        _keep(weights, *_nucleus(weights, sampling.top_p))
    return _invert(weights, uniform)


def largest(values: F32, count: int) -> Ids:
    """Ids of the `count` largest values, ascending by id; among equals the lower ids. 1 ≤ count ≤ len(values)."""
    cut, count = _rank(values, count)
    ids = np.flatnonzero(values >= cut)
    return np.delete(ids, _surplus(values[ids], cut, len(ids) - count))


def _rank(values: F32, count: int) -> tuple[np.float32, int]:
    """The `count`-th largest value, and the count."""
    place = len(values) - count
    return np.partition(values, place)[place], count


def _nucleus(weights: F32, top_p: float) -> tuple[np.float32, int]:
    """The lightest of the fewest heaviest weights that sum to `top_p` of the mass, and their number (arXiv:1904.09751).

    Halves until few are left, as quickselect does, but steering by mass; then sorts those.
    """
    target = top_p * float(weights.sum())
    rest, mass, count = _heavy(weights, target), 0.0, 0
    while len(rest) > _SMALL:
        middle = len(rest) // 2
        rest = np.partition(rest, middle)
        upper = float(rest[middle:].sum())
        if mass + upper >= target:
            rest = rest[middle:]
        else:
            mass, count, rest = mass + upper, count + len(rest) - middle, rest[:middle]
    falling = np.sort(rest)[::-1]
    place = int(np.searchsorted(mass + np.cumsum(falling, dtype=np.float64), target))
    place = min(place, len(falling) - 1)
    return falling[place], count + place + 1


def _heavy(weights: F32, target: float) -> F32:
    """The heavy weights alone if they are few and reach `target`, which is usual; else all."""
    is_heavy = weights >= _NEGLIGIBLE
    if np.count_nonzero(is_heavy) > len(weights) // 8:
        return weights
    heavy = weights[is_heavy]
    return heavy if float(heavy.sum()) >= target else weights


def _keep(weights: F32, cut: np.float32, count: int) -> None:
    """Set all but the `count` largest, the lightest of which is `cut`, to zero."""
    kept = weights >= cut
    surplus = int(np.count_nonzero(kept)) - count
    if surplus > 0:
        kept[_surplus(weights, cut, surplus)] = False
    weights *= kept


def _surplus(values: F32, cut: np.float32, count: int) -> Ids:
    """Positions of the last `count` values that equal `cut`."""
    ties = np.flatnonzero(values == cut)
    return ties[len(ties) - max(count, 0) :]


def _invert(weights: F32, uniform: float) -> int:
    """Smallest id whose cumulative weight exceeds `uniform` of the total; first by block, then inside the block."""
    ends = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK), dtype=np.float64))
    target = uniform * ends[-1]
    block = _first_above(ends, target)
    before = ends[block - 1] if block > 0 else 0.0
    start = block * _BLOCK
    inside = np.cumsum(weights[start : start + _BLOCK], dtype=np.float64)
    return start + _first_above(inside, target - before)


def _first_above(cumulative: npt.NDArray[np.float64], target: float) -> int:
    """First position above `target`; where rounding leaves none, the last one that adds anything."""
    place = int(np.searchsorted(cumulative, target, side="right"))
    return min(place, int(np.searchsorted(cumulative, cumulative[-1])))
