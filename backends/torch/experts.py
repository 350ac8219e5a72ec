"""A mixture of experts: each token's MLP is a weighted sum of a few of many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backends.models.spec import ModelSpec


def mix_experts(x: Tensor, scores: Tensor, run_expert: Callable[[Tensor, int], Tensor], spec: ModelSpec) -> Tensor:
    """`[T, hidden]` and router scores `[T, experts]` → `[T, hidden]`.

    `run_expert(rows, expert)` is called once for each expert that some token chose, with those tokens' rows. Waits
    for the device: which experts run is decided on the host.
    """
    weights, chosen = scores.softmax(dim=1).topk(spec.experts_per_token, dim=1)
    if spec.normalized_experts:
        weights /= weights.sum(dim=1, keepdim=True)
    order = chosen.flatten().argsort(stable=True)  # pairs (token, choice) by expert
    tokens = order // spec.experts_per_token
    shares = weights.flatten()[order].unsqueeze(1)
    mixed = torch.zeros_like(x)
    start = 0
    for expert, count in enumerate(chosen.flatten().bincount(minlength=spec.num_experts).tolist()):
        if not count:
            continue
        rows = tokens[start : start + count]
        mixed.index_add_(0, rows, run_expert(x[rows], expert).mul_(shares[start : start + count]))
        start += count
    return mixed
