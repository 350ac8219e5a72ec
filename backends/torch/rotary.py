"""The rotary embedding, for all kinds of layers of a model."""

from __future__ import annotations

import torch
from torch import Tensor

from backends.models.rotary import rotary_amplitude, rotary_frequencies
from backends.models.spec import ModelSpec, Rope

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine, float32 `[T, 1, head_dim]`; the first half of the sine is negated."""


class Rotary:
    """Frequencies on the device, one set for each distinct `spec.rope(layer)`."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        ropes = {spec.rope(layer) for layer in range(spec.num_layers)}
        self._frequencies = {
            rope: torch.from_numpy(rotary_frequencies(rope, spec.head_dim)).to(device) for rope in ropes
        }

    def rotations(self, positions: Tensor) -> dict[Rope, Rotation]:
        """`positions`: float64 `[T]`, so that angles keep their digits at far ones."""
        return {rope: _rotation(positions, each, rotary_amplitude(rope)) for rope, each in self._frequencies.items()}


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Half-split rotation of `[T, heads, head_dim]`."""
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def _rotation(positions: Tensor, frequencies: Tensor, amplitude: float) -> Rotation:
    angles = positions.unsqueeze(1) * frequencies
    cos, sin = (angles.cos() * amplitude).float(), (angles.sin() * amplitude).float()
    return torch.cat((cos, cos), dim=1).unsqueeze(1), torch.cat((-sin, sin), dim=1).unsqueeze(1)
