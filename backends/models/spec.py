"""What a decoder-only model is, as frozen data. A family is a `ModelSpec` plus load-time fix-ups.

Every optional feature defaults to "off", so a plain Llama names only its sizes.
"""

from __future__ import annotations

import msgspec


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True):
    """Frequency scaling of rotary embeddings.

    `kind` is `linear` (divide by `factor`) or `llama3` (smooth low/high frequency blend, Llama 3.1 report).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and switches of one model; lengths in tokens, widths in elements."""

    family: str
    """Name of the family for people and logs; no code outside `backends/models` branches on it."""
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    max_context: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tied_head: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over each query and key head before rotary (Qwen3)."""
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of float32 keys and values that one token occupies over all layers."""
        return 2 * self.num_layers * self.kv_size * 4
