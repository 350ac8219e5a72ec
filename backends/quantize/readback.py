"""What our own reader would make of the metadata that is about to be written."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np

from backends.models.families import spec_from_metadata
from backends.models.spec import ModelSpec
from backends.weights.gguf.cursor import Cursor
from backends.weights.gguf.metadata import MetadataValue, read_header, read_pairs
from backends.weights.gguf.writer import EncodedValue, GgufWriter

_NAMES_AND_NOTES = ("family", "notes", "attention_scale", "eos_token_ids")
"""Not compared: names and notes may differ; the scale is compared as `score_scale`, the ends as a set."""
_TOLERANCE = 1e-6
"""GGUF files hold float32."""


def decoded(metadata: Mapping[str, EncodedValue], *, where: str) -> dict[str, MetadataValue]:
    """The values behind encoded metadata, read by the reader of files."""
    head = GgufWriter(BytesIO(), metadata=metadata, tensors=()).head
    with mmap.mmap(-1, len(head)) as data:
        data.write(head)
        cursor = Cursor(data, Path(where))
        _, num_pairs = read_header(cursor)
        return read_pairs(cursor, num_pairs)


def spec_faults(
    spec: ModelSpec,
    metadata: Mapping[str, EncodedValue],
    *,
    tensor_names: Sequence[str],
    rope_factors: Sequence[float] | None,
    short_rope_factors: Sequence[float] | None,
    where: str,
) -> tuple[str, ...]:
    """A sentence for each way in which the model read back would differ. Raises as the reader does."""
    read = spec_from_metadata(
        decoded(metadata, where=where),
        tensor_names=tensor_names,
        rope_factors=_as_float32(rope_factors),
        short_rope_factors=_as_float32(short_rope_factors),
        where=where,
    ).spec
    wanted, found = _comparable(spec), _comparable(read)
    faults = [
        f"GGUF metadata cannot express {name}: {wanted[name]!r} would be read as {found[name]!r}"
        for name in wanted
        if not _same(wanted[name], found[name])
    ]
    missing = set(spec.eos_token_ids) - set(read.eos_token_ids)
    if missing:
        faults.append(f"GGUF metadata cannot name all end tokens: {sorted(missing)} would be left out")
    return tuple(faults)


def _as_float32(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in np.asarray(values, np.float32)]


def _comparable(spec: ModelSpec) -> dict[str, object]:
    scaling = spec.rope_scaling
    if scaling is not None and scaling.kind == "factors":  # they hold all that matters of the original context
        spec = msgspec.structs.replace(spec, rope_scaling=msgspec.structs.replace(scaling, original_context=0))
    values: dict[str, object] = msgspec.to_builtins(spec)
    kept = {name: value for name, value in values.items() if name not in _NAMES_AND_NOTES}
    return kept | {"score_scale": spec.score_scale, "bos_token_id": None}


def _same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= _TOLERANCE * max(abs(a), abs(b))
    return a == b
