"""`ModelSpec` → GGUF metadata: the inverse of `backends.models.families.gguf`, in llama.cpp's words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from backends.errors import ModelError, UnsupportedModel
from backends.models.families.gguf import ROPE_FACTORS, SHORT_ROPE_FACTORS
from backends.models.families.table import GGUF, GgufFamily
from backends.models.rotary import llama3_factors
from backends.models.spec import ModelSpec, Rope, RopeScaling
from backends.weights.gguf.writer import EncodedValue, Kind, array, scalar

LONG_ROPE_FACTORS = "rope_factors_long.weight"

_ROPE_KEYS = ("rope_parameters", "rope_scaling")
_ARCHITECTURES = {"mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe"}
"""Hugging Face family → `general.architecture`, where they differ."""

_SIZES = {
    "block_count": "num_layers",
    "context_length": "max_context",
    "embedding_length": "hidden_size",
    "feed_forward_length": "ffn_size",
    "attention.head_count": "num_heads",
    "attention.head_count_kv": "num_kv_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "vocab_size": "vocab_size",
}


def architecture_of(spec: ModelSpec) -> tuple[str, GgufFamily]:
    """(`general.architecture`, its row) for a model of a folder. Raises `UnsupportedModel`."""
    name = _ARCHITECTURES.get(spec.family, spec.family)
    if name not in GGUF:
        raise UnsupportedModel(f"family {spec.family} has no GGUF architecture; known are {', '.join(GGUF)}")
    return name, GGUF[name]


def model_metadata(
    spec: ModelSpec, config: Mapping[str, object], *, architecture: str, family: GgufFamily, name: str
) -> dict[str, EncodedValue]:
    """Everything but tokenizer and file type. `config` is the object of config.json."""
    own = _sizes(spec) | _attention(spec, family) | _windows(spec, family) | _experts(spec, family)
    own |= _rope(spec, family, config)
    general = {
        "general.architecture": scalar(Kind.STRING, architecture),
        "general.type": scalar(Kind.STRING, "model"),
        "general.name": scalar(Kind.STRING, name),
    }
    return general | {f"{architecture}.{key}": value for key, value in own.items()}


def _sizes(spec: ModelSpec) -> dict[str, EncodedValue]:
    sizes = {key: scalar(Kind.UINT32, getattr(spec, field)) for key, field in _SIZES.items()}
    return sizes | {"attention.layer_norm_rms_epsilon": _float(spec.rms_norm_eps)}


def _attention(spec: ModelSpec, family: GgufFamily) -> dict[str, EncodedValue]:
    values = {}
    caps = (spec.attention_softcap, spec.final_softcap)
    if any(family.default_softcaps) or any(caps):  # an absent key would mean the default
        values["attn_logit_softcapping"], values["final_logit_softcapping"] = map(_float, caps)
    if spec.attention_scale is not None and not math.isclose(spec.attention_scale, 1 / math.sqrt(spec.head_dim)):
        values["attention.scale"] = _float(spec.attention_scale)
    return values


def _windows(spec: ModelSpec, family: GgufFamily) -> dict[str, EncodedValue]:
    """The list of layers only where the architecture's own rule says otherwise."""
    period = family.window_period
    if period is None and not spec.windows:
        return {}
    values = {"attention.sliding_window": scalar(Kind.UINT32, max(spec.windows, default=0))}
    windowed = [window > 0 for window in spec.windows]
    by_rule = [period == 1 or (layer + 1) % (period or 1) != 0 for layer in range(spec.num_layers)]
    if spec.windows and (period is None or windowed != by_rule):
        values["attention.sliding_window_pattern"] = array(Kind.BOOL, windowed)
    return values


def _experts(spec: ModelSpec, family: GgufFamily) -> dict[str, EncodedValue]:
    if not spec.num_experts:
        return {}
    values = {
        "expert_count": scalar(Kind.UINT32, spec.num_experts),
        "expert_used_count": scalar(Kind.UINT32, spec.experts_per_token),
    }
    if family.experts == "always":
        values["expert_feed_forward_length"] = scalar(Kind.UINT32, spec.ffn_size)
    if not spec.normalized_experts:
        values["expert_weights_norm"] = scalar(Kind.BOOL, False)
    return values


def _rope(spec: ModelSpec, family: GgufFamily, config: Mapping[str, object]) -> dict[str, EncodedValue]:
    values = {"rope.freq_base": _float(spec.rope_theta)}
    if family.default_local_rope_theta is not None and spec.local_rope_theta is not None:
        values["rope.freq_base_swa"] = _float(spec.local_rope_theta)
    scaling = spec.rope_scaling
    if scaling is None:
        return values
    if scaling.kind == "linear":
        return values | {
            "rope.scaling.type": scalar(Kind.STRING, "linear"),
            "rope.scaling.factor": _float(scaling.factor),
        }
    if scaling.kind == "factors":
        return values | _long_rope(spec, scaling, config)
    return values | {"rope.scaling.original_context_length": scalar(Kind.UINT32, scaling.original_context)}


def _long_rope(spec: ModelSpec, scaling: RopeScaling, config: Mapping[str, object]) -> dict[str, EncodedValue]:
    """The model's own context is that of config.json: the spec's ends where the short factors do."""
    parts = [config.get(key) for key in _ROPE_KEYS]
    objects = [config, *(part for part in parts if isinstance(part, dict))]
    original = _first_number(objects, "original_max_position_embeddings", default=spec.max_context)
    return {
        "rope.scaling.original_context_length": scalar(Kind.UINT32, original),
        "rope.scaling.attn_factor": _float(scaling.attention_factor),
        "context_length": scalar(Kind.UINT32, _first_number([config], "max_position_embeddings", default=original)),
    }


def _first_number(objects: Sequence[Mapping[str, object]], key: str, *, default: int) -> int:
    found = (values.get(key) for values in objects)
    return next((value for value in found if isinstance(value, int)), default)


def rope_factors(spec: ModelSpec, config: Mapping[str, object], *, where: str) -> dict[str, tuple[float, ...]]:
    """The tensors in which GGUF files hold rotary factors, by name. Raises `ModelError` without the long ones."""
    scaling = spec.rope_scaling
    if scaling is None or scaling.kind == "linear":
        return {}
    if scaling.kind == "factors":
        return {LONG_ROPE_FACTORS: _long_factors(scaling, config, where), SHORT_ROPE_FACTORS: scaling.factors}
    return {ROPE_FACTORS: tuple(map(float, llama3_factors(Rope(spec.rope_theta, scaling), spec.head_dim)))}


def _long_factors(scaling: RopeScaling, config: Mapping[str, object], where: str) -> tuple[float, ...]:
    for key in _ROPE_KEYS:
        values = config.get(key)
        factors = values.get("long_factor") if isinstance(values, dict) else None
        if factors is not None:
            return _numbers(factors, len(scaling.factors), f"{where}/config.json: {key}.long_factor")
    raise ModelError(f"{where}/config.json: long_factor is missing beside short_factor")


def _numbers(values: object, count: int, where: str) -> tuple[float, ...]:
    items: Sequence[object] = values if isinstance(values, list) else ()
    numbers = tuple(float(item) for item in items if isinstance(item, int | float) and 0 < item < math.inf)
    if len(items) != count or len(numbers) != count:
        raise ModelError(f"{where}: expected {count} positive factors")
    return numbers


def _float(value: float) -> EncodedValue:
    return scalar(Kind.FLOAT32, value)
