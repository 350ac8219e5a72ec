"""The storage formats that can be read, one small file each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backends.errors import UnsupportedModel
from backends.weights.formats import (
    bf16,
    f16,
    f32,
    q2_k,
    q3_k,
    q4_0,
    q4_1,
    q4_k,
    q5_0,
    q5_1,
    q5_k,
    q6_k,
    q8_0,
    q8_1,
    q8_k,
)
from backends.weights.formats.format import Format

__all__ = ["FORMATS", "LAYOUTS", "Format", "bytes_per_row", "format_by_ggml_type"]

_MODULES = (f32, f16, bf16, q8_0, q8_1, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, q8_k)

FORMATS: Mapping[str, Format] = MappingProxyType({module.FORMAT.name: module.FORMAT for module in _MODULES})
"""Every known format by name."""

LAYOUTS: Mapping[str, Format] = MappingProxyType(
    {layout.name: layout for form in FORMATS.values() for layout in (form, form.wider) if layout}
)
"""`FORMATS` and the layouts that only old files have: all that can be decoded. Runners take `FORMATS`."""

_BY_GGML_TYPE = {form.ggml_type: form for form in FORMATS.values()}


def format_by_ggml_type(ggml_type: int) -> Format:
    """The format with this number in GGUF files. Raises `UnsupportedModel` naming the known ones."""
    form = _BY_GGML_TYPE.get(ggml_type)
    if form is None:
        raise UnsupportedModel(f"ggml type {ggml_type} is not supported; supported are {', '.join(FORMATS)}")
    return form


def bytes_per_row(name: str, columns: int) -> int:
    """Bytes of one row of `columns` elements stored as format `name`.

    Raises `UnsupportedModel` for an unknown format and `ModelError` for a partial block.
    """
    form = FORMATS.get(name)
    if form is None:
        raise UnsupportedModel(f"format {name} is not supported; supported are {', '.join(FORMATS)}")
    return form.bytes_per_row(columns)
