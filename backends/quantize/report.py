"""Report of a quantization."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import msgspec

from backends.quantize.plan import PlannedTensor, QuantizePlan
from backends.quantize.recipes import Recipe


class TensorReport(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor: what it was and what it is. Sizes in bytes."""

    name: str
    shape: tuple[int, ...]
    was: str
    format: str
    wanted: str
    was_bytes: int
    num_bytes: int
    has_importance: bool


class QuantizeReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, and `notes` that an operator should read: fallbacks, faults that were accepted, losses."""

    destination: Path
    format: str
    pure: bool
    tensors: tuple[TensorReport, ...]
    notes: tuple[str, ...]

    @property
    def num_weights(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def was_bytes(self) -> int:
        return sum(tensor.was_bytes for tensor in self.tensors)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors; the file is larger by its metadata."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.num_bytes / self.num_weights

    @property
    def formats(self) -> dict[str, int]:
        """Format → number of tensors, most frequent first."""
        return dict(Counter(tensor.format for tensor in self.tensors).most_common())


def report_of(plan: QuantizePlan, recipe: Recipe, *, destination: Path, extra_notes: tuple[str, ...]) -> QuantizeReport:
    return QuantizeReport(
        destination=destination,
        format=recipe.name,
        pure=recipe.pure,
        tensors=tuple(map(_tensor_report, plan.tensors)),
        notes=plan.notes + extra_notes,
    )


def _tensor_report(tensor: PlannedTensor) -> TensorReport:
    return TensorReport(
        name=tensor.entry.name,
        shape=tensor.entry.shape,
        was="+".join(tensor.source.formats),
        format=tensor.entry.format,
        wanted=tensor.wanted,
        was_bytes=tensor.source.num_bytes,
        num_bytes=tensor.entry.num_bytes,
        has_importance=tensor.importance is not None,
    )
