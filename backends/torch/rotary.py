"""Frequencies of the rotary embedding (RoFormer, arXiv:2104.09864), with linear and Llama 3 scaling."""

from __future__ import annotations

import torch
from torch import Tensor

from backends.errors import UnsupportedModel
from backends.models.families.rope import llama3_factors
from backends.models.spec import ModelSpec


def rotary_frequencies(spec: ModelSpec, device: torch.device) -> Tensor:
    """float64 `[head_dim / 2]`, radians a position. Raises `UnsupportedModel` for an unknown kind of scaling."""
    exponents = torch.arange(0, spec.head_dim, 2, dtype=torch.float64) / spec.head_dim
    return (spec.rope_theta**-exponents / _factors(spec)).to(device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotation of `[T, heads, head_dim]`; the first half of `sin` is negated."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def _factors(spec: ModelSpec) -> Tensor:
    scaling = spec.rope_scaling
    if scaling is None:
        return torch.ones(1, dtype=torch.float64)
    if scaling.kind == "llama3":
        return torch.tensor(llama3_factors(spec, scaling), dtype=torch.float64)
    if scaling.kind == "linear":
        return torch.tensor([scaling.factor], dtype=torch.float64)
    raise UnsupportedModel(f"rotary scaling {scaling.kind!r} is not supported; supported are linear and llama3")
