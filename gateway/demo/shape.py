"""The dimensions of a demo model; widths are multiples of 256 so that every 256-wide K-quant block fits."""

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int = 64
    vocab: int = 1024
    context: int = 1024
    eps: float = 1e-5
    rope_theta: float = 10000.0


MODEL = Shape(hidden=256, layers=4, ffn=768, heads=4, kv_heads=2)
DRAFT = Shape(hidden=256, layers=1, ffn=256, heads=4, kv_heads=2)
