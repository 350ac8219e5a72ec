"""The switches of a `ModelSpec` that belong to an architecture and not to a single model."""

from __future__ import annotations

import msgspec

from backends.models.spec import Activation


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of `ModelSpec`, under their names there."""

    qkv_bias: bool = False
    qk_norm: bool = False
    qk_norm_whole: bool = False
    pre_norm: bool = True
    post_norm: bool = False
    activation: Activation = "silu"


LLAMA = Traits()
QWEN2 = Traits(qkv_bias=True)
QWEN3 = Traits(qk_norm=True)
GEMMA2 = Traits(post_norm=True, activation="gelu_tanh")
GEMMA3 = Traits(post_norm=True, activation="gelu_tanh", qk_norm=True)
OLMO2 = Traits(pre_norm=False, post_norm=True, qk_norm_whole=True)
