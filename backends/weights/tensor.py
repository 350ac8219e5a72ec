"""One stored tensor: bytes exactly as in the file, their meaning, and their values."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from backends.weights.formats import LAYOUTS


class StoredTensor(msgspec.Struct, frozen=True):
    """A tensor as stored; quantized blocks stay blocks.

    `shape` is logical and row-major, output features first: `[rows, columns]` for a linear, `[size]` for a vector.
    `data` holds raw bytes, uint8 `[rows, bytes_per_row]` (`[1, bytes]` for a vector); usually a read-only view of
    a memory-mapped file. `format` is a name from `backends.weights.formats`: F32, F16, BF16, Q8_0 …
    """

    name: str
    format: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


TensorSource = Mapping[str, StoredTensor]
"""Canonical name → stored tensor. Canonical names:

    embed                         [vocab, hidden]
    layers.{i}.attn_norm          [hidden]                     before attention, absent without pre-norms
    layers.{i}.q | k | v          [heads * head_dim, hidden]   rows in half-split rotary order
    layers.{i}.q.bias | k.bias | v.bias
    layers.{i}.q_norm | k_norm    [head_dim], or [heads * head_dim] where one norm spans all heads
    layers.{i}.o                  [hidden, heads * head_dim]
    layers.{i}.attn_post_norm     [hidden]                     after attention, where there are post-norms
    layers.{i}.mlp_norm           [hidden]
    layers.{i}.gate | up          [ffn, hidden]
    layers.{i}.down               [hidden, ffn]
    layers.{i}.router             [experts, hidden]            instead of the three above, and
    layers.{i}.experts.{e}.gate | up | down
    layers.{i}.mlp_post_norm      [hidden]
    final_norm                    [hidden]
    head                          [vocab, hidden]              absent when the head is tied to `embed`

Norm weights are what the normed values are multiplied by (Gemma's stored weights plus one).
"""


def decode(tensor: StoredTensor) -> npt.NDArray[np.float32]:
    """All values, float32 in the tensor's logical shape. Allocates 4 bytes an element."""
    return LAYOUTS[tensor.format].decode(tensor.data).reshape(tensor.shape)
