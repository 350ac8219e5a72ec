"""One row for each supported architecture. A new family that the decoder can already run is a new row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec


class HuggingFaceFamily(msgspec.Struct, frozen=True, kw_only=True):
    """What `config.json` leaves unsaid. Defaults are those of the architecture's own configuration class."""

    name: str
    qkv_bias: bool = False
    qk_norm: bool = False
    default_head_dim: int | None = None
    """`None`: hidden size divided by the number of heads."""
    default_sliding_window: int | None = None
    sliding_window_switch: str | None = None
    """Field that must be true for `sliding_window` to mean anything; `None`: it always does."""


HUGGING_FACE: Mapping[str, HuggingFaceFamily] = MappingProxyType(
    {
        "LlamaForCausalLM": HuggingFaceFamily(name="llama"),
        "MistralForCausalLM": HuggingFaceFamily(name="mistral", default_sliding_window=4096),
        "Qwen2ForCausalLM": HuggingFaceFamily(name="qwen2", qkv_bias=True, sliding_window_switch="use_sliding_window"),
        "Qwen3ForCausalLM": HuggingFaceFamily(
            name="qwen3", qk_norm=True, default_head_dim=128, sliding_window_switch="use_sliding_window"
        ),
    }
)
"""`architectures[0]` of config.json → family."""


class GgufFamily(msgspec.Struct, frozen=True, kw_only=True):
    """What the metadata leaves unsaid."""

    name: str
    interleaved_rotary: bool = False
    """Query and key rows are stored in interleaved rotary order (`LlamaModel.permute` of llama.cpp's converter)."""
    qkv_bias: Literal["never", "if stored", "always"] = "never"
    qk_norm: bool = False


GGUF: Mapping[str, GgufFamily] = MappingProxyType(
    {
        "llama": GgufFamily(name="llama", interleaved_rotary=True, qkv_bias="if stored"),
        "qwen2": GgufFamily(name="qwen2", qkv_bias="always"),
        "qwen3": GgufFamily(name="qwen3", qk_norm=True),
    }
)
"""`general.architecture` → family. Mistral models are published as `llama`."""
