"""Hugging Face `config.json` and `generation_config.json` → `ModelSpec`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from backends.errors import ModelError, UnsupportedModel
from backends.models.families.fields import (
    MAX_EXPERTS,
    MAX_FFN,
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_HIDDEN,
    MAX_LAYERS,
    MAX_VOCAB,
    Fields,
    check_consistent,
    default_head_dim,
)
from backends.models.families.rope import rope_from_config
from backends.models.families.table import HUGGING_FACE, ExpertRule, HuggingFaceFamily
from backends.models.families.windows import windows_from_config
from backends.models.spec import ModelSpec

_ACTIVATIONS = {"silu": ("silu",), "gelu_tanh": ("gelu_pytorch_tanh",)}
_ONLY_VALUES: dict[str, tuple[object, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1, 1.0),
    "quantization_config": (),
    "use_bidirectional_attention": (False,),
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([],),
    "router_jitter_noise": (0, 0.0),
}
"""Fields that would change the mathematics, and the only values (or absence) that leave it alone."""


def spec_from_config(config: Mapping[str, object], generation: Mapping[str, object], *, where: str) -> ModelSpec:
    """The spec of a model folder. `where` is its path; `generation` is empty without generation_config.json.

    Raises `UnsupportedModel` for architectures and switches without a rule and `ModelError` for bad numbers, both
    naming the field. Models that bring their own code (`auto_map`) are refused unless it is the code of a supported
    architecture, which is not needed: code from a model folder is never run.
    """
    config_path = f"{where}/config.json"
    fields = Fields(config, where=config_path)
    family = _family(config, config_path)
    _refuse_own_code(config, config_path)
    for key, accepted in _ONLY_VALUES.items():
        fields.require(key, *accepted)
    for key in ("hidden_act", "hidden_activation"):
        fields.require(key, *_ACTIVATIONS[family.traits.activation])
    spec = _sized(fields, family, config_path)
    spec = _replaced(spec, **_gemma(fields, family, spec)) if family.is_gemma else spec
    spec = _replaced(spec, **_experts(fields, family.experts)) if family.experts is not None else spec
    return check_consistent(_replaced(spec, **_ends(fields, generation, where, spec)), config_path)


def _sized(fields: Fields, family: HuggingFaceFamily, config_path: str) -> ModelSpec:
    hidden_size = fields.integer("hidden_size", high=MAX_HIDDEN)
    num_layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    num_heads = fields.integer("num_attention_heads", high=MAX_HEADS)
    head_dim = _head_dim(fields, family, config_path, hidden_size=hidden_size, num_heads=num_heads)
    local = family.default_local_rope_theta
    rope = rope_from_config(fields, config_path, head_dim=head_dim, default_local_theta=local)
    return ModelSpec(
        family=family.name,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", default=num_heads, high=MAX_HEADS),
        head_dim=head_dim,
        ffn_size=fields.integer(family.experts.ffn_size if family.experts else "intermediate_size", high=MAX_FFN),
        vocab_size=fields.integer("vocab_size", high=MAX_VOCAB),
        max_context=rope.max_context,
        rms_norm_eps=fields.number("rms_norm_eps", default=family.default_eps),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        local_rope_theta=rope.local_theta,
        windows=windows_from_config(fields, family.window, num_layers=num_layers),
        tied_head=fields.flag("tie_word_embeddings", default=family.default_tied_head),
        notes=rope.notes,
        **msgspec.structs.asdict(family.traits),
    )


def _replaced(spec: ModelSpec, **changes: object) -> ModelSpec:
    return msgspec.structs.replace(spec, **changes)


def _gemma(fields: Fields, family: HuggingFaceFamily, spec: ModelSpec) -> dict[str, object]:
    attention, final = family.default_softcaps
    return {
        "embedding_scale": math.sqrt(spec.hidden_size),
        "attention_scale": 1 / math.sqrt(fields.number("query_pre_attn_scalar", default=256)),
        "attention_softcap": _softcap(fields, "attn_logit_softcapping", attention),
        "final_softcap": _softcap(fields, "final_logit_softcapping", final),
    }


def _softcap(fields: Fields, key: str, default: float) -> float:
    """An explicit null is off; an absent field takes the class's default."""
    if fields.get(key) is None and (fields.has(key) or not default):
        return 0.0
    return fields.number(key, default=default)


def _experts(fields: Fields, rule: ExpertRule) -> dict[str, object]:
    present = [key for key in rule.count if fields.get(key) is not None]
    num_experts = fields.integer((present or rule.count)[0], high=MAX_EXPERTS)
    is_normalized = rule.is_normalized
    if isinstance(is_normalized, str):
        is_normalized = fields.flag(is_normalized, default=False)
    return {
        "num_experts": num_experts,
        "experts_per_token": fields.integer("num_experts_per_tok", high=num_experts),
        "normalized_experts": is_normalized,
    }


def _ends(fields: Fields, generation: Mapping[str, object], where: str, spec: ModelSpec) -> dict[str, object]:
    bos = fields.token_ids("bos_token_id", vocab_size=spec.vocab_size)
    return {
        "eos_token_ids": _eos_token_ids(fields, generation, where, vocab_size=spec.vocab_size),
        "bos_token_id": bos[0] if bos else None,
    }


def family_of(config: Mapping[str, object], where: str) -> HuggingFaceFamily:
    """The row of a config.json. Raises `UnsupportedModel`, naming those that there are."""
    return _family(config, f"{where}/config.json")


def _refuse_own_code(config: Mapping[str, object], where: str) -> None:
    """A checkpoint of an architecture that was once published with code may still name that code."""
    own = config.get("auto_map")
    if not own:
        return
    architectures = config["architectures"]
    assert isinstance(architectures, list)  # `_family` looked
    stem = str(architectures[0]).removesuffix("ForCausalLM")
    names = own.values() if isinstance(own, dict) else [own]
    if not all(str(name).rpartition(".")[2] in (f"{stem}Config", f"{stem}ForCausalLM") for name in names):
        raise ModelError(f"{where}: auto_map asks for code from the model folder, and that is never run")


def _family(config: Mapping[str, object], where: str) -> HuggingFaceFamily:
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    family = HUGGING_FACE.get(name) if isinstance(name, str) else None
    if family is None:
        raise UnsupportedModel(f"{where}: architectures[0] is {name!r}; this build supports {', '.join(HUGGING_FACE)}")
    return family


def _head_dim(fields: Fields, family: HuggingFaceFamily, where: str, *, hidden_size: int, num_heads: int) -> int:
    default = family.default_head_dim
    if default is None and fields.get("head_dim") is None:
        return default_head_dim(where, hidden_size=hidden_size, num_heads=num_heads)
    return fields.integer("head_dim", default=default, high=MAX_HEAD_DIM)


def _eos_token_ids(fields: Fields, generation: Mapping[str, object], where: str, *, vocab_size: int) -> tuple[int, ...]:
    """Ids that end a turn, preferably from generation_config.json; config.json is the fallback."""
    own = Fields(generation, where=f"{where}/generation_config.json").token_ids("eos_token_id", vocab_size=vocab_size)
    return own or fields.token_ids("eos_token_id", vocab_size=vocab_size)
