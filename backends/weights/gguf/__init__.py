"""GGUF files, versions 2 and 3, little-endian; layout after ggml's docs/gguf.md.

"GGUF" | u32 version | u64 tensors | u64 pairs
pairs:    key string | u32 type | value
tensors:  name string | u32 dims | u64 dim… (fastest first) | u32 ggml type | u64 offset into the data
padding to the alignment, then the data
"""

from __future__ import annotations

from backends.weights.gguf.file import GgufFile, read_gguf, read_metadata
from backends.weights.gguf.layouts import narrowed
from backends.weights.gguf.metadata import Metadata, MetadataValue

__all__ = ["GgufFile", "Metadata", "MetadataValue", "narrowed", "read_gguf", "read_metadata"]
