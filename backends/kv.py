"""KV layouts and data types, as configuration, engine and runners name them."""

from __future__ import annotations

from typing import Literal

KVDtype = Literal["f32", "f16", "int8"]
"""int8 has a float32 scale for each head of a token."""
KVChoice = Literal["auto", KVDtype]
"""`auto` leaves it to the runner."""
KVLayout = Literal["slot", "paged"]
"""A contiguous slot for each sequence, or blocks that are allocated as needed and may be shared."""
KVLayoutChoice = Literal["auto", KVLayout]
BLOCK_TOKENS = 16
"""Tokens of a block in the paged layout."""
