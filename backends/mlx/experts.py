"""A mixture of experts: each token's MLP is a weighted sum of a few of many."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from backends.models.spec import ModelSpec


def mix_experts(
    x: mx.array, scores: mx.array, run_expert: Callable[[mx.array, int], mx.array], spec: ModelSpec
) -> mx.array:
    """`[T, hidden]` and router scores `[T, experts]` → `[T, hidden]`.

    `run_expert(rows, expert)` is called once for each expert that some token chose. Waits for the scores: which
    experts run is decided on the host.
    """
    shares = mx.softmax(scores, axis=1)
    chosen = mx.argsort(-shares, axis=1)[:, : spec.experts_per_token]
    weights = mx.take_along_axis(shares, chosen, axis=1)
    if spec.normalized_experts:
        weights = weights / weights.sum(axis=1, keepdims=True)
    experts = np.array(chosen)
    mixed = mx.zeros_like(x)
    for expert in np.unique(experts).tolist():
        tokens, choices = np.nonzero(experts == expert)
        rows = mx.array(tokens)
        share = weights[rows, mx.array(choices)][:, None]
        mixed = mixed.at[rows].add(run_expert(x[rows], expert) * share)
    return mixed
