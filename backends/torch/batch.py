"""Converts the NumPy arrays of a `Step` to the inputs of its layers, once for all of them; rotary angles included."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor

from backends.api import I32, Step
from backends.models.rotary import rotary_amplitude, rotary_frequencies
from backends.models.spec import ModelSpec, Rope
from backends.steps import flat_indices, wanted_rows
from backends.torch.device import to_device
from backends.torch.pool import KVBlockViews, TorchKVPool

TorchRotation = tuple[Tensor, Tensor]
"""Cosine and sine, float32 `[T, 1, head_dim]`; the first half of the sine is negated."""


class Rotary:
    """Frequencies on the device, one set for each distinct `spec.rope(layer)`."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        ropes = {spec.rope(layer) for layer in range(spec.num_layers)}
        self._frequencies = {
            rope: torch.from_numpy(rotary_frequencies(rope, spec.head_dim)).to(device) for rope in ropes
        }

    def rotations(self, positions: Tensor) -> dict[Rope, TorchRotation]:
        """`positions`: float64 `[T]`, so that angles keep their digits at far ones."""
        return {rope: _rotation(positions, each, rotary_amplitude(rope)) for rope, each in self._frequencies.items()}


def rotate(x: Tensor, rotation: TorchRotation) -> Tensor:
    """Half-split rotation of `[T, heads, head_dim]`."""
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def _rotation(positions: Tensor, frequencies: Tensor, amplitude: float) -> TorchRotation:
    angles = positions.unsqueeze(1) * frequencies
    cos, sin = (angles.cos() * amplitude).float(), (angles.sin() * amplitude).float()
    return torch.cat((cos, cos), dim=1).unsqueeze(1), torch.cat((-sin, sin), dim=1).unsqueeze(1)


_MAX_QUERIES = 256
"""Queries of one attention call: bounds its mask, and spares the keys that lie after the last of them."""


class TorchSpan(msgspec.Struct, frozen=True):
    """Neighbouring new tokens of one sequence: `tokens` of the step see `keys` of the tokens in `blocks`.

    `mask` is float32 `[tokens, keys]`, 0 or -inf; None where all keys are seen, or where tokens and keys are the
    same and the mask is the plain causal one.
    """

    tokens: slice
    blocks: KVBlockViews
    keys: slice
    mask: Tensor | None = None

    @property
    def num_queries(self) -> int:
        return int(self.tokens.stop - self.tokens.start)


class TorchBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One step on the device: int64 `[T]`, `logit_rows[R]`, and the spans of each window that layers have.

    `places`: block, and position in the block, of each new token's keys and values.
    """

    token_ids: Tensor
    places: tuple[Tensor, Tensor]
    logit_rows: Tensor
    rotations: dict[Rope, TorchRotation]
    spans: dict[int, tuple[TorchSpan, ...]]


def make_batch(step: Step, spec: ModelSpec, pool: TorchKVPool, rotary: Rotary, *, picked: Tensor | None) -> TorchBatch:
    """The step was checked; `picked` as in `Executor.run`."""
    table = step.block_table if pool.is_paged else step.slot[:, None]
    assert table is not None  # `check_step` saw to it
    block, place = np.divmod(flat_indices(step, table, pool.block_tokens), pool.block_tokens)
    windows = {spec.window(layer) for layer in range(spec.num_layers)}
    return TorchBatch(
        token_ids=_resolve(to_device(step.token_ids, np.int64, pool.device), picked),
        places=(to_device(block, np.int64, pool.device), to_device(place, np.int64, pool.device)),
        logit_rows=to_device(wanted_rows(step), np.int64, pool.device),
        rotations=rotary.rotations(to_device(step.positions, np.float64, pool.device)),
        spans={window: _spans(step, table, pool, window) for window in windows},
    )


def _resolve(token_ids: Tensor, picked: Tensor | None) -> Tensor:
    if picked is None:
        return token_ids
    before = picked[(-1 - token_ids).clamp_(min=0)]
    return torch.where(token_ids < 0, before, token_ids).clamp_(min=0)  # a row that failed picked -1


def _spans(step: Step, table: I32, pool: TorchKVPool, window: int) -> tuple[TorchSpan, ...]:
    starts, ends = step.q_start[:-1].tolist(), step.q_start[1:].tolist()
    offsets = (step.kv_len - step.q_start[1:]).tolist()  # index in the step + offset = position
    return tuple(
        _span(slice(cut, min(cut + _MAX_QUERIES, end)), offset, blocks, pool, window)
        for start, end, offset, blocks in zip(starts, ends, offsets, table, strict=True)
        for cut in range(start, end, _MAX_QUERIES)
    )


def _span(tokens: slice, offset: int, table: I32, pool: TorchKVPool, window: int) -> TorchSpan:
    position, end = tokens.start + offset, tokens.stop + offset
    first = max(0, position + 1 - window) if window else 0
    first_block = first // pool.block_tokens
    blocks = _blocks(table[first_block : -(-end // pool.block_tokens)], pool.device)
    before = first_block * pool.block_tokens
    keys = slice(first - before, end - before)
    if end - position == 1 or (position == 0 and not 0 < window < end):
        return TorchSpan(tokens, blocks, keys)
    return TorchSpan(tokens, blocks, keys, _mask(end - position, end - first, window, pool.device))


def _mask(num_queries: int, num_keys: int, window: int, device: torch.device) -> Tensor:
    """The last query sees the last key; each sees `window` keys, the one at its own position included."""
    future = torch.full((num_queries, num_keys), -torch.inf, device=device).triu_(num_keys - num_queries + 1)
    if not window:
        return future
    past = torch.full_like(future, -torch.inf).tril_(num_keys - num_queries - window)
    return future.add_(past)


def _blocks(numbers: I32, device: torch.device) -> KVBlockViews:
    first = int(numbers[0])
    if len(numbers) == 1 or np.array_equal(numbers, np.arange(first, first + len(numbers))):
        return slice(first, first + len(numbers))
    return to_device(numbers, np.int64, device)
