"""Hugging Face `config.json` and `generation_config.json` → `ModelSpec`."""

from __future__ import annotations

from collections.abc import Mapping

from backends.errors import ModelError, UnsupportedModel
from backends.models.families.fields import Fields
from backends.models.families.limits import (
    MAX_CONTEXT,
    MAX_FFN,
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_HIDDEN,
    MAX_LAYERS,
    MAX_VOCAB,
    check_consistent,
    default_head_dim,
)
from backends.models.families.rope import rope_from_config
from backends.models.families.table import HUGGING_FACE, HuggingFaceFamily
from backends.models.spec import ModelSpec

_DEFAULT_EPS = 1e-6  # of every supported configuration class
_ONLY_VALUES: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1, 1.0),
    "quantization_config": (),
}
"""Fields that would change the mathematics, and the only values (or absence) that leave it alone."""


def spec_from_config(config: Mapping[str, object], generation: Mapping[str, object], *, where: str) -> ModelSpec:
    """The spec of a model folder. `where` is its path; `generation` is empty without generation_config.json.

    Raises `UnsupportedModel` for architectures and switches without a rule and `ModelError` for bad numbers, both
    naming the field. Models that bring their own code (`auto_map`) are refused: it would have to be run.
    """
    config_path = f"{where}/config.json"
    if config.get("auto_map"):
        raise ModelError(f"{config_path}: auto_map asks for code from the model folder, and that is never run")
    fields = Fields(config, where=config_path)
    family = _family(config, config_path)
    for key, accepted in _ONLY_VALUES.items():
        fields.require(key, *accepted)
    _refuse_sliding_window(fields, family)
    theta, scaling = rope_from_config(fields, config_path)
    vocab_size = fields.integer("vocab_size", high=MAX_VOCAB)
    hidden_size = fields.integer("hidden_size", high=MAX_HIDDEN)
    num_heads = fields.integer("num_attention_heads", high=MAX_HEADS)
    bos = fields.token_ids("bos_token_id", vocab_size=vocab_size)
    spec = ModelSpec(
        family=family.name,
        hidden_size=hidden_size,
        num_layers=fields.integer("num_hidden_layers", high=MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", default=num_heads, high=MAX_HEADS),
        head_dim=_head_dim(fields, family, config_path, hidden_size=hidden_size, num_heads=num_heads),
        ffn_size=fields.integer("intermediate_size", high=MAX_FFN),
        vocab_size=vocab_size,
        max_context=fields.integer("max_position_embeddings", high=MAX_CONTEXT),
        rms_norm_eps=fields.number("rms_norm_eps", default=_DEFAULT_EPS),
        rope_theta=theta,
        rope_scaling=scaling,
        tied_head=fields.flag("tie_word_embeddings", default=False),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        eos_token_ids=_eos_token_ids(fields, generation, where, vocab_size=vocab_size),
        bos_token_id=bos[0] if bos else None,
    )
    return check_consistent(spec, config_path)


def _family(config: Mapping[str, object], where: str) -> HuggingFaceFamily:
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    family = HUGGING_FACE.get(name) if isinstance(name, str) else None
    if family is None:
        raise UnsupportedModel(f"{where}: architectures[0] is {name!r}; this build supports {', '.join(HUGGING_FACE)}")
    return family


def _refuse_sliding_window(fields: Fields, family: HuggingFaceFamily) -> None:
    layer_types = fields.get("layer_types")
    if layer_types is not None and (
        not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types)
    ):
        raise UnsupportedModel(fields.describe("layer_types", "this build supports only full_attention"))
    if family.sliding_window_switch is not None:
        fields.require(family.sliding_window_switch, False)
        return
    if fields.has("sliding_window"):
        fields.require("sliding_window")
    elif family.default_sliding_window is not None:
        raise UnsupportedModel(
            fields.describe(
                "sliding_window",
                f"{family.name} then uses a window of {family.default_sliding_window}, which this build does not "
                "support; set it to null if the model was trained without one",
            )
        )


def _head_dim(fields: Fields, family: HuggingFaceFamily, where: str, *, hidden_size: int, num_heads: int) -> int:
    default = family.default_head_dim
    if default is None and fields.get("head_dim") is None:
        return default_head_dim(where, hidden_size=hidden_size, num_heads=num_heads)
    return fields.integer("head_dim", default=default, high=MAX_HEAD_DIM)


def _eos_token_ids(fields: Fields, generation: Mapping[str, object], where: str, *, vocab_size: int) -> tuple[int, ...]:
    """generation_config.json knows best where a turn ends; config.json is the fallback."""
    own = Fields(generation, where=f"{where}/generation_config.json").token_ids("eos_token_id", vocab_size=vocab_size)
    return own or fields.token_ids("eos_token_id", vocab_size=vocab_size)
