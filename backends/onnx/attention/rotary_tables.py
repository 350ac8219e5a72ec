"""Tables of the rotary embedding, for all positions of a slot."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backends.models.rotary import rotary_amplitude, rotary_frequencies
from backends.models.spec import ModelSpec, Rope

F32 = npt.NDArray[np.float32]


def distinct_ropes(spec: ModelSpec) -> list[Rope]:
    """The rotary embeddings of all layers, each once; graph inputs are numbered in this order."""
    return list(dict.fromkeys(spec.rope(layer) for layer in range(spec.num_layers)))


def rotary_tables(rope: Rope, head_dim: int, *, num_positions: int) -> tuple[F32, F32]:
    """(cos, sin), each float32 `[num_positions, head_dim / 2]`."""
    angles = np.arange(num_positions)[:, None] * rotary_frequencies(rope, head_dim)[None]
    amplitude = rotary_amplitude(rope)
    return (amplitude * np.cos(angles)).astype(np.float32), (amplitude * np.sin(angles)).astype(np.float32)
