"""Draws a token from each row of logits on their device; exactly as `RowSampling` says, without waiting for the device.

The filters keep the heaviest tokens of a row, among equals those with the lower ids. So it suffices to know how many,
and the lightest weight among them: values are sorted, ids never.
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor

from backends.api import I64, RowSampling
from backends.torch.device import to_device

_CPU_ELEMENTS = 1 << 17
"""Logits worked on at a time: beyond that the temporaries leave the cache, and eight large rows take twice as long."""


class _Rows(msgspec.Struct, frozen=True):
    """Columns `[n, 1]` of `RowSampling` on the device; `top_k` is int64 and never 0, the others float64."""

    temperature: Tensor
    min_p: Tensor
    top_k: Tensor
    top_p: Tensor
    uniform: Tensor


def pick(logits: Tensor, sampling: RowSampling) -> Tensor:
    """int64 `[R]` token ids for float32 `[R, vocab]`; -1 where a row has NaN or +inf, or nothing above -inf."""
    best = logits.argmax(dim=1)  # finds NaN and +inf, so one look at it shows every row that must not be used
    peaks = logits.gather(1, best.unsqueeze(1))
    drawn = np.flatnonzero(sampling.temperature > 0)
    at_once = max(1, _CPU_ELEMENTS // logits.shape[1] if logits.device.type == "cpu" else len(drawn))
    for start in range(0, len(drawn), at_once):
        part = drawn[start : start + at_once]
        rows = to_device(part, np.int64, logits.device)
        best = best.index_copy(0, rows, _draw(logits[rows], peaks[rows], sampling, part))
    return torch.where(peaks.squeeze(1).isfinite(), best, -1)


def _draw(logits: Tensor, peaks: Tensor, sampling: RowSampling, drawn: I64) -> Tensor:
    """int64 `[n]` for the rows `drawn`, which have a temperature; any id for a row that is not finite."""
    rows = _rows(sampling, drawn, logits)
    # The best token gets weight exp(0) = 1, so min_p is an absolute bound.
    weights = torch.exp((logits - peaks) / rows.temperature.float())
    weights.masked_fill_(weights < rows.min_p.clamp(max=1.0).float(), 0.0)
    if (sampling.top_k[drawn] > 0).any() or (sampling.top_p[drawn] < 1).any():
        weights = _filter(weights, rows)
    return _invert(weights, rows.uniform)


def _rows(sampling: RowSampling, drawn: I64, logits: Tensor) -> _Rows:
    fields = [getattr(sampling, name)[drawn] for name in _Rows.__struct_fields__]
    temperature, min_p, top_k, top_p, uniform = to_device(np.stack(fields), np.float64, logits.device).unsqueeze(2)
    size = logits.shape[1]
    return _Rows(temperature, min_p, torch.where(top_k > 0, top_k, size).clamp(max=size).long(), top_p, uniform)


def _filter(weights: Tensor, rows: _Rows) -> Tensor:
    """`weights` with zeros for what top_k and top_p do not keep."""
    falling = _falling(weights)
    ranked = falling * (torch.arange(falling.shape[1], device=weights.device) < rows.top_k)
    cumulative = ranked.cumsum(dim=1, dtype=torch.float64)
    # The fewest that sum to so much of the mass of the top_k heaviest (arXiv:1904.09751), at least one.
    nucleus = (cumulative[:, :-1] < rows.top_p * cumulative[:, -1:]).sum(dim=1, keepdim=True) + 1
    count = torch.where(rows.top_p < 1, nucleus.minimum(rows.top_k), rows.top_k)
    return _keep(weights, falling.gather(1, count - 1), count)


def _falling(weights: Tensor) -> Tensor:
    """Each row sorted, the largest first. NumPy sorts floats several times as fast as torch does on the CPU."""
    if weights.device.type == "cpu":
        return torch.from_numpy(np.sort(weights.numpy(), axis=1)).flip(1)
    return weights.sort(dim=1, descending=True).values


def _keep(weights: Tensor, cut: Tensor, count: Tensor) -> Tensor:
    """`weights` with zeros for all but the `count` heaviest, the lightest of which is `cut`; of equals the first."""
    ties = weights == cut
    above = weights > cut
    room = count - above.sum(dim=1, keepdim=True)
    return weights * (above | (ties & (ties.cumsum(dim=1, dtype=torch.int32) <= room)))


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """int64 `[n]`: the smallest id whose cumulative weight exceeds `uniform` of the whole.

    Where rounding leaves none, the last one that adds anything.
    """
    cumulative = weights.cumsum(dim=1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    place = torch.searchsorted(cumulative, uniform * total, right=True)
    return place.minimum(torch.searchsorted(cumulative, total)).squeeze(1)
