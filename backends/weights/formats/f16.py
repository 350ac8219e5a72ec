"""F16: IEEE 754 binary16, little-endian."""

from __future__ import annotations

from backends.weights.formats.bits import read_f16, write_f16
from backends.weights.formats.format import Format

FORMAT = Format(name="F16", ggml_type=1, block_size=1, block_bytes=2, decode_blocks=read_f16, encode_blocks=write_f16)
