"""Draws a token from a row of logits: temperature, min_p, top_k, top_p, in this order.

A plain version that sorts everything is in the tests; this one looks for cuts instead, because sorting a vocabulary
costs more than a small model's whole step.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from backends.generation import Sampling

F32 = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]

_NEGLIGIBLE = 1e-3
"""Weight, relative to the best token's, below which a peaked distribution's tail is not looked at."""
_SMALL = 512
"""Rows that are cheaper to sort than to halve."""


def draw(logits: F32, peak: float, sampling: Sampling, *, uniform: float) -> int:
    """Token id drawn by inverting the cumulative distribution at `uniform` ∈ [0, 1).

    `logits`: [vocab], finite or -inf (banned); `peak` is their maximum and finite. Ties at a cut keep the lower ids.
    """
    scaled = (logits - np.float32(peak)) / np.float32(sampling.temperature)
    ids = _candidates(scaled, sampling)
    weights = np.exp(scaled if ids is None else scaled[ids])
    if sampling.top_p < 1.0:
        kept = _nucleus(weights, sampling.top_p)
        ids = kept if ids is None else ids[kept]
        weights = weights[kept]
    cumulative = np.cumsum(weights, dtype=np.float64)
    place = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return place if ids is None else int(ids[place])


def largest(values: F32, count: int) -> Ids:
    """Ids of the `count` largest values, ascending by id; among equals the lower ids. 1 ≤ count ≤ len(values)."""
    start = len(values) - count
    return _down_to(values, cut=np.partition(values, start)[start], count=count)


def _candidates(scaled: F32, sampling: Sampling) -> Ids | None:
    """Ids that min_p and top_k leave, ascending; None if both are off."""
    ids: Ids | None = None
    if sampling.min_p > 0.0:
        # The best token has weight exp(0) = 1, so min_p is an absolute bound.
        ids = np.flatnonzero(scaled >= np.float32(min(math.log(sampling.min_p), 0.0)))
        scaled = scaled[ids]
    if 0 < sampling.top_k < len(scaled):
        kept = largest(scaled, sampling.top_k)
        ids = kept if ids is None else ids[kept]
    return ids


def _nucleus(weights: F32, top_p: float) -> Ids:
    """Ids of the fewest heaviest weights that hold `top_p` of the mass, at least one (arXiv:1904.09751)."""
    target = top_p * float(weights.sum(dtype=np.float64))
    heavy = np.flatnonzero(weights >= _NEGLIGIBLE)
    if float(weights[heavy].sum(dtype=np.float64)) >= target:
        return heavy[_heaviest(weights[heavy], target)]
    return _heaviest(weights, target)


def _heaviest(weights: F32, target: float) -> Ids:
    """Halve until few are left, as quickselect does, but steering by mass; then sort those."""
    rest, mass, count = weights, 0.0, 0
    while len(rest) > _SMALL:
        middle = len(rest) // 2
        rest = np.partition(rest, middle)
        upper = float(rest[middle:].sum(dtype=np.float64))
        if mass + upper >= target:
            rest = rest[middle:]
        else:
            mass, count, rest = mass + upper, count + len(rest) - middle, rest[:middle]
    falling = np.sort(rest)[::-1]
    place = int(np.searchsorted(mass + np.cumsum(falling, dtype=np.float64), target))
    place = min(place, len(falling) - 1)
    return _down_to(weights, cut=falling[place], count=count + place + 1)


def _down_to(values: F32, *, cut: np.float32, count: int) -> Ids:
    ids = np.flatnonzero(values >= cut)
    surplus = len(ids) - count
    if surplus <= 0:
        return ids
    ties = np.flatnonzero(values[ids] == cut)
    return np.delete(ids, ties[-surplus:])
