"""One row for each supported architecture. A new family that the decoder can already run is a row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from backends.models.families import table as traits
from backends.models.families.names import (
    GEMMA_NAMES,
    GGUF_NAMES,
    GGUF_PHI3_NAMES,
    HUGGING_FACE_NAMES,
    MIXTRAL_NAMES,
    OLMO2_NAMES,
    PHI3_NAMES,
    QWEN3_MOE_NAMES,
    Naming,
)
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


class WindowRule(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that use `sliding_window` where the file does not list them."""

    default: int | None = None
    """The window if the field is absent; `None` is none."""
    switch: str | None = None
    """Field that must be true for the window to mean anything; `None`: it always does."""
    period: int = 1
    """Period of layers that see all; 1: none does."""
    first_layer_field: str | None = None
    """Field that names the first windowed layer; `None`: layer 0."""
    first_layer: int = 0
    """Default of the first layer."""


class ExpertRule(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of a mixture of experts."""

    count: tuple[str, ...]
    """Names of the field, newest first."""
    ffn_size: str
    is_normalized: bool | str
    """A constant, or the name of the field, whose default is false."""


class HuggingFaceFamily(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults for `config.json`: those of the architecture's own configuration class."""

    name: str
    traits: Traits = traits.LLAMA
    naming: Naming = HUGGING_FACE_NAMES
    default_head_dim: int | None = None
    """`None`: hidden size divided by the number of heads."""
    default_eps: float = 1e-6
    default_tied_head: bool = False
    window: WindowRule = WindowRule()
    experts: ExpertRule | None = None
    is_gemma: bool = False
    """Norm weights are stored less one, embeddings scaled by the root of their width, and the scores' scale and the
    softcaps have fields."""
    default_softcaps: tuple[float, float] = (0.0, 0.0)
    """(attention, logits)."""
    default_local_rope_theta: float | None = None
    """Windowed layers have a rotary base of their own."""


_QWEN_WINDOW = WindowRule(switch="use_sliding_window", first_layer_field="max_window_layers", first_layer=28)

HUGGING_FACE: Mapping[str, HuggingFaceFamily] = MappingProxyType(
    {
        "LlamaForCausalLM": HuggingFaceFamily(name="llama"),
        "MistralForCausalLM": HuggingFaceFamily(name="mistral", window=WindowRule(default=4096)),
        "Qwen2ForCausalLM": HuggingFaceFamily(name="qwen2", traits=traits.QWEN2, window=_QWEN_WINDOW),
        "Qwen3ForCausalLM": HuggingFaceFamily(
            name="qwen3", traits=traits.QWEN3, default_head_dim=128, window=_QWEN_WINDOW
        ),
        "Gemma2ForCausalLM": HuggingFaceFamily(
            name="gemma2",
            traits=traits.GEMMA2,
            naming=GEMMA_NAMES,
            default_head_dim=256,
            default_tied_head=True,
            window=WindowRule(default=4096, period=2),
            is_gemma=True,
            default_softcaps=(50.0, 30.0),
        ),
        "Gemma3ForCausalLM": HuggingFaceFamily(
            name="gemma3",
            traits=traits.GEMMA3,
            naming=GEMMA_NAMES,
            default_head_dim=256,
            default_tied_head=True,
            window=WindowRule(default=4096, period=6),
            is_gemma=True,
            default_local_rope_theta=10000.0,
        ),
        "Phi3ForCausalLM": HuggingFaceFamily(name="phi3", naming=PHI3_NAMES, default_eps=1e-5),
        "Olmo2ForCausalLM": HuggingFaceFamily(name="olmo2", traits=traits.OLMO2, naming=OLMO2_NAMES, default_eps=1e-5),
        "Qwen3MoeForCausalLM": HuggingFaceFamily(
            name="qwen3_moe",
            traits=traits.QWEN3,
            naming=QWEN3_MOE_NAMES,
            default_head_dim=None,
            window=WindowRule(switch="use_sliding_window"),
            experts=ExpertRule(
                count=("num_local_experts", "num_experts"),
                ffn_size="moe_intermediate_size",
                is_normalized="norm_topk_prob",
            ),
        ),
        "MixtralForCausalLM": HuggingFaceFamily(
            name="mixtral",
            naming=MIXTRAL_NAMES,
            default_eps=1e-5,
            experts=ExpertRule(count=("num_local_experts",), ffn_size="intermediate_size", is_normalized=True),
        ),
    }
)
"""`architectures[0]` of config.json → family. SmolLM and SmolLM2, Llama 2 and 3 are `LlamaForCausalLM`."""


class GgufFamily(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults for the metadata, as llama.cpp has them."""

    name: str
    traits: Traits = traits.LLAMA
    naming: Naming = GGUF_NAMES
    interleaved_rotary: bool = False
    """Query and key rows are stored in interleaved rotary order (`LlamaModel.permute` of llama.cpp's converter)."""
    qkv_bias: Literal["never", "if stored", "always"] = "never"
    window_period: int | None = None
    """Same as `WindowRule.period`; `None`: a window is rejected unless the file lists its layers."""
    experts: Literal["never", "if counted", "always"] = "never"
    is_gemma: bool = False
    """Embeddings are scaled by the root of their width. (Norm weights are stored as they are used.)"""
    wide_score_layers: int = 0
    """The model of this many layers scales scores by hidden size / heads instead of by the head size (Gemma 27B)."""
    default_softcaps: tuple[float, float] = (0.0, 0.0)
    default_local_rope_theta: float | None = None


GGUF: Mapping[str, GgufFamily] = MappingProxyType(
    {
        "llama": GgufFamily(
            name="llama", interleaved_rotary=True, qkv_bias="if stored", window_period=1, experts="if counted"
        ),
        "qwen2": GgufFamily(name="qwen2", traits=traits.QWEN2, qkv_bias="always"),
        "qwen3": GgufFamily(name="qwen3", traits=traits.QWEN3),
        "qwen3moe": GgufFamily(name="qwen3moe", traits=traits.QWEN3, experts="always"),
        "gemma2": GgufFamily(
            name="gemma2",
            traits=traits.GEMMA2,
            window_period=2,
            is_gemma=True,
            wide_score_layers=46,
            default_softcaps=(50.0, 30.0),
        ),
        "gemma3": GgufFamily(
            name="gemma3",
            traits=traits.GEMMA3,
            window_period=6,
            is_gemma=True,
            wide_score_layers=62,
            default_local_rope_theta=10000.0,
        ),
        "phi3": GgufFamily(name="phi3", naming=GGUF_PHI3_NAMES, window_period=1),
        "olmo2": GgufFamily(name="olmo2", traits=traits.OLMO2),
    }
)
"""`general.architecture` → family. Mistral, Mixtral and SmolLM models are published as `llama`."""
