"""Groups of elements that share a scale, laid out so that one NumPy call serves the same element of every group.

Sums run over the elements in order, in float32, as the loops of ggml-quants.c do: the encoders give its bytes.
"""

from __future__ import annotations

import numpy as np

from backends.weights.formats.format import F32, U8


def to_groups(values: F32, size: int) -> F32:
    """float32 `[blocks, n * size]` → `[size, blocks * n]`: a column a group."""
    return np.ascontiguousarray(values.reshape(-1, size).T)


def from_groups(codes: U8, block_size: int) -> U8:
    """uint8 `[size, groups]` → `[blocks, block_size]`."""
    return np.ascontiguousarray(codes.T).reshape(-1, block_size)


def sum_in_order(terms: F32) -> F32:
    """float32 `[size, groups]` → `[groups]`, each group's first element first."""
    if terms.shape[1] == 1:  # NumPy would add a single column pairwise
        last: F32 = np.add.accumulate(terms, axis=0)[-1]
        return last
    total: F32 = np.add.reduce(terms, axis=0)
    return total


def round_to(values: F32, low: int, high: int) -> F32:
    """Whole numbers in `[low, high]` nearest to the values, halves to even. Overwrites and returns `values`."""
    np.rint(values, out=values)
    return np.clip(values, low, high, out=values)


def peak_of(groups: F32) -> F32:
    """float32 `[size, groups]` → `[groups]`, each group's element of largest size, the first among equals."""
    high, low = groups.max(axis=0), groups.min(axis=0)
    peak: F32 = np.where(high > -low, high, low)
    ties = np.flatnonzero(high == -low)
    first = np.abs(groups[:, ties]).argmax(axis=0)
    peak[ties] = groups[first, ties]
    return peak


def lowest_of(groups: F32) -> F32:
    """float32 `[size, groups]` → `[groups]`, each group's smallest element, the first among equals, as 0 and -0."""
    low: F32 = groups.min(axis=0)
    zeros = np.flatnonzero(low == 0)
    low[zeros] = groups[groups[:, zeros].argmin(axis=0), zeros]
    return low


def mean_square(rows: F32) -> F32:
    """float32 `[rows, columns]` → `[rows, 1]`."""
    total: F32 = np.add.accumulate(rows * rows, axis=1)[:, -1:]
    mean: F32 = total / np.float32(rows.shape[1])  # ty: ignore[invalid-assignment]  # float32 stays float32
    return mean


def root_mean_square(groups: F32) -> F32:
    """float32 `[size, groups]` → `[groups]`."""
    mean: F32 = sum_in_order(groups * groups) / np.float32(len(groups))  # ty: ignore[invalid-assignment]  # float32 stays float32
    return np.sqrt(mean)


def importance_weights(values: F32, importance: F32, spread: F32) -> F32:
    """Weights of the squared errors: importance * sqrt(spread + value²). All `[rows, columns]` or broadcast to it."""
    weights: F32 = importance * np.sqrt(spread + values * values)
    return weights


def row_weighted_groups(rows: F32, importance: F32, size: int) -> tuple[F32, F32]:
    """Groups and the weights of their errors, both `[size, groups]`, of `[rows, columns]` and `[columns]`.

    Of formats without super-blocks, where the spread is the mean square of the whole row.
    """
    weights = importance_weights(rows, importance, mean_square(rows))
    return to_groups(rows, size), to_groups(weights, size)
