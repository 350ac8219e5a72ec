"""Keys and values of all slots, and attention of new tokens over them, sequence by sequence."""

from __future__ import annotations

import mlx.core as mx

from backends.api import KVPlan
from backends.mlx.batch import MlxRotation, MlxSpan
from backends.models.spec import ModelSpec


class MlxKVPool:
    """Keys and values per layer, float32 `[slots * slot_tokens, kv_heads, head_dim]`, zero at first.

    MLX arrays are values: a write makes a new array. Without other references to the old one, MLX reuses its memory and
    the write is in place. Keeping a reference to an array makes the next write copy all of it.
    """

    def __init__(self, spec: ModelSpec, plan: KVPlan) -> None:
        self.slot_tokens = plan.block_tokens
        shape = (plan.num_blocks * plan.block_tokens, spec.num_kv_heads, spec.head_dim)
        self._keys = [mx.zeros(shape) for _ in range(spec.num_layers)]
        self._values = [mx.zeros(shape) for _ in range(spec.num_layers)]
        mx.eval(self.arrays)

    @property
    def arrays(self) -> list[mx.array]:
        return [*self._keys, *self._values]

    def write(self, layer: int, places: mx.array, keys: mx.array, values: mx.array) -> None:
        """`[T, kv_heads, head_dim]` each, to the rows `places[T]`."""
        self._keys[layer][places] = keys
        self._values[layer][places] = values

    def read(self, layer: int, rows: slice) -> tuple[mx.array, mx.array]:
        """Views `[rows, kv_heads, head_dim]`."""
        return self._keys[layer][rows], self._values[layer][rows]

    def copy(self, source: int, destination: int, num_tokens: int | None = None) -> None:
        rows = self.slot_tokens if num_tokens is None else num_tokens
        to, start = destination * self.slot_tokens, source * self.slot_tokens
        for arrays in (self._keys, self._values):
            for array in arrays:
                array[to : to + rows] = array[start : start + rows]
        mx.eval(self.arrays)


def rotate(x: mx.array, rotation: MlxRotation) -> mx.array:
    """Half-split rotary embedding of `[T, heads, head_dim]`."""
    cos, sin = rotation
    first, second = mx.split(x, 2, axis=-1)
    return mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attend(queries: mx.array, layer: int, spans: tuple[MlxSpan, ...], pool: MlxKVPool, spec: ModelSpec) -> mx.array:
    """`[T, heads, head_dim]` → `[T, heads * head_dim]`. The new tokens' keys and values are in the pool already."""
    parts = []
    for span in spans:
        q = queries[span.tokens].transpose(1, 0, 2)[None]
        k, v = (x.transpose(1, 0, 2)[None] for x in pool.read(layer, span.keys))
        attended = _capped(q, k, v, span, spec) if spec.attention_softcap else _plain(q, k, v, span, spec)
        parts.append(attended[0].transpose(1, 0, 2).reshape(-1, spec.q_size))
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def _plain(q: mx.array, k: mx.array, v: mx.array, span: MlxSpan, spec: ModelSpec) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=spec.score_scale, mask=span.mask)


def _capped(q: mx.array, k: mx.array, v: mx.array, span: MlxSpan, spec: ModelSpec) -> mx.array:
    """MLX's own attention has no soft cap. `[1, heads, n, head_dim]` over `[1, kv_heads, m, head_dim]`."""
    cap = spec.attention_softcap
    grouped = q.reshape(1, spec.num_kv_heads, -1, *q.shape[2:])
    scores = mx.tanh(grouped @ k[:, :, None].swapaxes(-1, -2) * (spec.score_scale / cap)) * cap
    if span.mask is not None:
        scores = mx.where(span.mask, scores, -mx.inf)
    mixed = mx.softmax(scores, axis=-1) @ v[:, :, None]
    return mixed.reshape(q.shape)
