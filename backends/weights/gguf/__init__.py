"""GGUF files, versions 2 and 3, little-endian; layout after ggml's docs/gguf.md.

"GGUF" | u32 version | u64 tensors | u64 pairs
pairs:    key string | u32 type | value
tensors:  name string | u32 dims | u64 dim… (fastest first) | u32 ggml type | u64 offset into the data
padding to the alignment, then the data
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from backends.weights.gguf.metadata import Metadata, MetadataValue, read_metadata

if TYPE_CHECKING:
    from backends.weights.gguf.file import GgufFile, narrowed, read_gguf

__all__ = ["GgufFile", "Metadata", "MetadataValue", "narrowed", "read_gguf", "read_metadata"]

_WITH_TENSORS = {"GgufFile": "file", "read_gguf": "file", "narrowed": "file"}


def __getattr__(name: str) -> object:
    """Import the readers of tensors on first use: the gateway reads metadata without numpy."""
    if name not in _WITH_TENSORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WITH_TENSORS[name]}"), name)
