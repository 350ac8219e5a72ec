"""Decoder-only models as frozen data. A family is a `ModelSpec` plus load-time fix-ups.

Every optional feature defaults to "off", so a plain Llama names only its sizes.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

Activation = Literal["silu", "gelu_tanh"]


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True):
    """Frequency scaling of rotary embeddings; see `backends.models.rotary`.

    `kind` is `linear` (divide by `factor`), `llama3` (smooth low/high frequency blend, Llama 3.1 report) or `factors`
    (divide each frequency by its own of the `head_dim / 2` `factors`, and multiply sine and cosine by
    `attention_factor`: LongRoPE, arXiv:2402.13753).
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    factors: tuple[float, ...] = ()
    attention_factor: float = 1.0


class Rope(msgspec.Struct, frozen=True):
    """The rotary embedding of a layer."""

    theta: float
    scaling: RopeScaling | None = None


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
    """Width of the MLP, or of one expert."""
    vocab_size: int
    max_context: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    """Rotary base of windowed layers, which then have no scaling (Gemma 3); `None`: the same as everywhere."""
    windows: tuple[int, ...] = ()
    """Window of each layer in tokens, the token itself included; 0 is all. Empty: every layer sees all."""
    tied_head: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    """RMSNorm of queries and keys before rotary: over each head (Qwen3, Gemma 3) …"""
    qk_norm_whole: bool = False
    """… or over all heads of the projection at once (OLMo 2)."""
    pre_norm: bool = True
    """RMSNorm before attention and before the MLP."""
    post_norm: bool = False
    """RMSNorm after attention and after the MLP, before the residual sum (Gemma 2 and 3, OLMo 2)."""
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    """Factor of the attention scores; `None`: 1 / sqrt(head_dim)."""
    attention_softcap: float = 0.0
    """Scores become `cap * tanh(score / cap)`; 0 is off."""
    final_softcap: float = 0.0
    """The same for logits."""
    num_experts: int = 0
    """Experts of each layer's MLP; 0 is a plain MLP."""
    experts_per_token: int = 0
    normalized_experts: bool = True
    """The weights of a token's experts sum to one."""
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    notes: tuple[str, ...] = ()
    """Notes for operators on how the file was read."""

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

    @property
    def score_scale(self) -> float:
        """Factor of the products of queries and keys."""
        return 1 / math.sqrt(self.head_dim) if self.attention_scale is None else self.attention_scale

    def window(self, layer: int) -> int:
        """Tokens that a token of this layer sees, itself included; 0 is all."""
        return self.windows[layer] if self.windows else 0

    def rope(self, layer: int) -> Rope:
        if self.local_rope_theta is not None and self.window(layer):
            return Rope(self.local_rope_theta)
        return Rope(self.rope_theta, self.rope_scaling)
