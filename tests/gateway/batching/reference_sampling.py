"""Sampling written plainly: sort everything, loop over everything. The judge of the fast version."""

from __future__ import annotations

import math

from backends.generation import Sampling


def reference_distribution(logits: list[float], sampling: Sampling) -> dict[int, float]:
    """Token id → probability after temperature, min_p, top_k and top_p, by ascending id."""
    peak = max(logits)
    weights = {token: math.exp((value - peak) / sampling.temperature) for token, value in enumerate(logits)}
    if sampling.min_p > 0.0:
        weights = {token: weight for token, weight in weights.items() if weight >= sampling.min_p}
    ranked = sorted(weights, key=lambda token: (-weights[token], token))
    if sampling.top_k > 0:
        ranked = ranked[: sampling.top_k]
    if sampling.top_p < 1.0:
        ranked = _nucleus(ranked, weights, sampling.top_p)
    total = sum(weights[token] for token in ranked)
    return {token: weights[token] / total for token in sorted(ranked)}


def reference_draw(distribution: dict[int, float], uniform: float) -> int:
    mass = 0.0
    for token, probability in distribution.items():
        mass += probability
        if uniform < mass:
            return token
    return next(reversed(distribution))


def _nucleus(ranked: list[int], weights: dict[int, float], top_p: float) -> list[int]:
    target = top_p * sum(weights[token] for token in ranked)
    mass = 0.0
    for count, token in enumerate(ranked, start=1):
        mass += weights[token]
        if mass >= target:
            return ranked[:count]
    return ranked
