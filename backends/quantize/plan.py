"""Plan of a quantization: formats of all tensors, checked and sized before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from backends.quantize.importance import Importance
from backends.quantize.mixture import FormatChoice, choose_formats, is_quantizable
from backends.quantize.recipes import Recipe
from backends.quantize.source import QuantizeSource, SourceTensor
from backends.weights.gguf.writer import EncodedValue, Kind, TensorEntry, scalar

_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION in ggml.h
_FLOATS = ("F32", "F16", "BF16")
_MAX_NAMED = 3


class PlannedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor and the format it gets. `importance`: float32 `[matrices, columns]`."""

    source: SourceTensor
    entry: TensorEntry
    wanted: str
    """The format that the recipe asks for; not that of `entry` where the tensor's rows do not fit its blocks."""
    importance: npt.NDArray[np.float32] | None = None

    @property
    def is_fallback(self) -> bool:
        return self.entry.format != self.wanted

    @property
    def is_copied(self) -> bool:
        """True if the tensor is stored in its format already, so that its blocks are copied."""
        return self.source.formats == (self.entry.format,)


class QuantizePlan(msgspec.Struct, frozen=True, kw_only=True):
    """All tensors in the order of the file, and the complete metadata."""

    tensors: tuple[PlannedTensor, ...]
    metadata: Mapping[str, EncodedValue]
    notes: tuple[str, ...]

    @property
    def entries(self) -> list[TensorEntry]:
        return [tensor.entry for tensor in self.tensors]


def make_plan(source: QuantizeSource, recipe: Recipe, importance: Importance | None) -> QuantizePlan:
    """Raises `ModelError` for an importance matrix of another model, or where the recipe needs one."""
    shapes = {tensor.name: tensor.shape for tensor in source.tensors if is_quantizable(tensor.name, tensor.shape)}
    choices = choose_formats(shapes, recipe, source.spec, has_importance=importance is not None)
    tensors = tuple(_planned(tensor, choices.get(tensor.name), importance) for tensor in source.tensors)
    notes = source.notes + _requantized_note(tensors) + _fallback_notes(tensors)
    if importance is not None:
        notes += _importance_notes(tensors, importance)
    return QuantizePlan(tensors=tensors, metadata=_metadata(source, recipe, importance), notes=notes)


def _planned(tensor: SourceTensor, choice: FormatChoice | None, importance: Importance | None) -> PlannedTensor:
    if choice is None:
        kept = TensorEntry(tensor.name, tensor.kept_format, tensor.shape)
        return PlannedTensor(source=tensor, entry=kept, wanted=tensor.kept_format)
    weights = None
    if importance is not None and choice.format not in _FLOATS:
        weights = importance.of_tensor(tensor.name, tensor.shape)
    entry = TensorEntry(tensor.name, choice.format, tensor.shape)
    return PlannedTensor(source=tensor, entry=entry, wanted=choice.wanted, importance=weights)


def _metadata(source: QuantizeSource, recipe: Recipe, importance: Importance | None) -> dict[str, EncodedValue]:
    metadata = dict(source.metadata)
    if recipe.file_type is None:
        metadata.pop("general.file_type", None)
    else:
        metadata["general.file_type"] = scalar(Kind.UINT32, recipe.file_type)
    metadata["general.quantization_version"] = scalar(Kind.UINT32, _QUANTIZATION_VERSION)
    if importance is None:
        return metadata
    metadata["quantize.imatrix.file"] = scalar(Kind.STRING, importance.path.name)
    metadata["quantize.imatrix.entries_count"] = scalar(Kind.UINT32, len(importance.values))
    metadata["quantize.imatrix.chunks_count"] = scalar(Kind.UINT32, importance.chunks)
    if importance.dataset:
        metadata["quantize.imatrix.dataset"] = scalar(Kind.STRING, importance.dataset)
    return metadata


def _requantized_note(tensors: tuple[PlannedTensor, ...]) -> tuple[str, ...]:
    lossy = Counter(
        stored
        for tensor in tensors
        if not tensor.is_copied
        for stored in tensor.source.formats
        if stored not in _FLOATS
    )
    if not lossy:
        return ()
    formats = ", ".join(f"{count} × {name}" for name, count in lossy.items())
    return (f"the source is quantized already ({formats}): the losses of both add up",)


def _fallback_notes(tensors: tuple[PlannedTensor, ...]) -> tuple[str, ...]:
    """One sentence for each format that some tensors could not have."""
    missed: dict[tuple[str, str], list[PlannedTensor]] = {}
    for tensor in tensors:
        if tensor.is_fallback:
            missed.setdefault((tensor.wanted, tensor.entry.format), []).append(tensor)
    return tuple(_fallback_note(wanted, got, group) for (wanted, got), group in missed.items())


def _fallback_note(wanted: str, got: str, group: list[PlannedTensor]) -> str:
    columns = ", ".join(str(width) for width in sorted({tensor.entry.shape[-1] for tensor in group}))
    names = [tensor.entry.name for tensor in group]
    return f"{_listed(names)}: stored as {got} instead of {wanted}, whose blocks do not fit rows of {columns}"


def _importance_notes(tensors: tuple[PlannedTensor, ...], importance: Importance) -> tuple[str, ...]:
    own = {tensor.entry.name for tensor in tensors}
    without = [
        tensor.entry.name
        for tensor in tensors
        if tensor.importance is None and is_quantizable(tensor.entry.name, tensor.entry.shape)
    ]
    unused = [name for name in importance.values if name not in own]
    notes = []
    if without:
        notes.append(f"{_listed(without)}: no importance in {importance.path.name}, every column counts the same")
    if unused:
        notes.append(f"{importance.path.name}: {_listed(unused)} not in this model")
    return tuple(notes)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED} more"
