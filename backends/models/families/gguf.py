"""GGUF metadata → `ModelSpec`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import msgspec

from backends.errors import UnsupportedModel
from backends.models.families.fields import (
    MAX_CONTEXT,
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
from backends.models.families.names import Naming
from backends.models.families.rope import DEFAULT_THETA, long_rope_from_factors, scaling_from_factors
from backends.models.families.table import GGUF, GgufFamily
from backends.models.families.windows import windows_from_metadata
from backends.models.spec import ModelSpec, RopeScaling

ROPE_FACTORS = "rope_freqs.weight"
SHORT_ROPE_FACTORS = "rope_factors_short.weight"

_ONLY_VALUES: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "expert_shared_count": (0,),
    "expert_weights_scale": (0.0, 1.0),
    "expert_gating_func": (1,),
    "logit_scale": (1.0,),
    "residual_scale": (1.0,),
    "embedding_scale": (1.0,),
}
"""Keys that would change the mathematics, and the only values (or absence) that leave it alone."""

_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_EOS_TEXTS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>")
"""Control tokens that end a turn though the metadata may not name them; llama.cpp finds them by text, too."""
_CONTROL = 3  # `LLAMA_TOKEN_TYPE_CONTROL`


class GgufModel(msgspec.Struct, frozen=True, kw_only=True):
    """A spec, and what must be known about the stored tensors."""

    spec: ModelSpec
    naming: Naming
    interleaved_rotary: bool
    """Query and key rows have to be brought into half-split order."""


def spec_from_metadata(
    metadata: Mapping[str, object],
    *,
    tensor_names: Collection[str],
    rope_factors: Sequence[float] | None,
    short_rope_factors: Sequence[float] | None = None,
    where: str,
) -> GgufModel:
    """The spec of a GGUF file. The factors are the values of `rope_freqs.weight` and `rope_factors_short.weight`.

    Raises `UnsupportedModel` for architectures and switches without a rule and `ModelError` for bad numbers, both
    naming the key. The tensors decide whether the head is tied and whether there are biases.
    """
    architecture = metadata.get("general.architecture")
    family = GGUF.get(architecture) if isinstance(architecture, str) else None
    if family is None:
        raise UnsupportedModel(
            f"{where}: general.architecture is {architecture!r}; this build supports {', '.join(GGUF)}"
        )
    fields = Fields(metadata, where=where, prefix=f"{family.name}.")
    for key, accepted in _ONLY_VALUES.items():
        fields.require(key, *accepted)
    spec = _plain_spec(metadata, fields, family, tensor_names=tensor_names, where=where)
    spec = _replaced(spec, **_scores(fields, family, spec), **_experts(fields, family))
    if short_rope_factors is None:
        fields.require("rope.scaling.type", "none", "linear")
        fields.require("rope.scaling.attn_factor", 1.0)
        spec = _replaced(spec, rope_scaling=_scaling(fields, spec, rope_factors, where=where))
    else:
        spec = _replaced(spec, **_long_rope(fields, spec, short_rope_factors, where=where))
    return GgufModel(
        spec=check_consistent(spec, where), naming=family.naming, interleaved_rotary=family.interleaved_rotary
    )


def _plain_spec(
    metadata: Mapping[str, object], fields: Fields, family: GgufFamily, *, tensor_names: Collection[str], where: str
) -> ModelSpec:
    tokenizer = Fields(metadata, where=where, prefix="tokenizer.ggml.")
    vocab_size = _vocab_size(fields, tokenizer)
    hidden_size = fields.integer("embedding_length", high=MAX_HIDDEN)
    num_layers = fields.integer("block_count", high=MAX_LAYERS)
    num_heads = fields.integer("attention.head_count", high=MAX_HEADS)
    has_bias = family.naming.stored_name("layers.0.q.bias") in tensor_names
    bos = tokenizer.token_ids("bos_token_id", vocab_size=vocab_size)
    spec = ModelSpec(
        family=family.name,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=fields.integer("attention.head_count_kv", default=num_heads, high=MAX_HEADS),
        head_dim=_head_dim(fields, where, hidden_size=hidden_size, num_heads=num_heads),
        ffn_size=fields.integer(_ffn_key(family), high=MAX_FFN),
        vocab_size=vocab_size,
        max_context=fields.integer("context_length", high=MAX_CONTEXT),
        rms_norm_eps=_as_written(fields.number("attention.layer_norm_rms_epsilon")),
        rope_theta=_as_written(fields.number("rope.freq_base", default=DEFAULT_THETA)),
        local_rope_theta=_local_theta(fields, family),
        windows=windows_from_metadata(fields, family.window_period, num_layers=num_layers),
        tied_head=family.naming.stored_name("head") not in tensor_names,
        embedding_scale=math.sqrt(hidden_size) if family.is_gemma else 1.0,
        eos_token_ids=_eos_token_ids(tokenizer, vocab_size=vocab_size),
        bos_token_id=bos[0] if bos else None,
        **msgspec.structs.asdict(family.traits),
    )
    return _replaced(spec, qkv_bias=family.qkv_bias == "always" or (family.qkv_bias == "if stored" and has_bias))


def _replaced(spec: ModelSpec, **changes: object) -> ModelSpec:
    return msgspec.structs.replace(spec, **changes)


def _ffn_key(family: GgufFamily) -> str:
    return "expert_feed_forward_length" if family.experts == "always" else "feed_forward_length"


def _local_theta(fields: Fields, family: GgufFamily) -> float | None:
    if family.default_local_rope_theta is None:
        return None
    return _as_written(fields.number("rope.freq_base_swa", default=family.default_local_rope_theta))


def _scores(fields: Fields, family: GgufFamily, spec: ModelSpec) -> dict[str, object]:
    """Settings of attention scores and logits."""
    attention, final = family.default_softcaps
    return {
        "attention_scale": _attention_scale(fields, family, spec),
        "attention_softcap": _softcap(fields, "attn_logit_softcapping", attention),
        "final_softcap": _softcap(fields, "final_logit_softcapping", final),
    }


def _attention_scale(fields: Fields, family: GgufFamily, spec: ModelSpec) -> float | None:
    if fields.get("attention.scale") not in (None, 0.0):
        return _as_written(fields.number("attention.scale"))
    if spec.num_layers == family.wide_score_layers:
        return 1 / math.sqrt(spec.hidden_size / spec.num_heads)
    return None


def _softcap(fields: Fields, key: str, default: float) -> float:
    value = fields.get(key)
    if value == 0.0 or (value is None and not default):
        return 0.0
    return _as_written(fields.number(key, default=default))


def _experts(fields: Fields, family: GgufFamily) -> dict[str, object]:
    if family.experts == "never":
        fields.require("expert_count", 0)
    if family.experts == "never" or (family.experts == "if counted" and fields.get("expert_count") in (None, 0)):
        return {}
    num_experts = fields.integer("expert_count", high=MAX_EXPERTS)
    return {
        "num_experts": num_experts,
        "experts_per_token": fields.integer("expert_used_count", high=num_experts),
        "normalized_experts": fields.flag("expert_weights_norm", default=True),
    }


def _long_rope(fields: Fields, spec: ModelSpec, factors: Sequence[float], *, where: str) -> dict[str, object]:
    fields.require("rope.scaling.type", "none", "longrope")
    amplitude = fields.get("rope.scaling.attn_factor")
    scaling, max_context, notes = long_rope_from_factors(
        factors,
        where=f"{where}: {SHORT_ROPE_FACTORS}",
        head_dim=spec.head_dim,
        original=fields.integer("rope.scaling.original_context_length", low=2, high=MAX_CONTEXT),
        max_context=spec.max_context,
        amplitude=None if amplitude is None else _as_written(fields.number("rope.scaling.attn_factor")),
    )
    return {"rope_scaling": scaling, "max_context": max_context, "notes": notes}


def _as_written(value: float) -> float:
    """The short decimal behind a number that was stored as float32: 1e-5, not 9.999999747e-06."""
    return float(f"{value:.7g}")


def _vocab_size(fields: Fields, tokenizer: Fields) -> int:
    tokens = tokenizer.get("tokens")
    if isinstance(tokens, tuple) and 0 < len(tokens) <= MAX_VOCAB:
        return len(tokens)
    return fields.integer("vocab_size", high=MAX_VOCAB)


def _head_dim(fields: Fields, where: str, *, hidden_size: int, num_heads: int) -> int:
    if fields.get("attention.key_length") is None:
        head_dim = default_head_dim(where, hidden_size=hidden_size, num_heads=num_heads)
    else:
        head_dim = fields.integer("attention.key_length", high=MAX_HEAD_DIM)
    for key in ("attention.value_length", "rope.dimension_count"):
        fields.require(key, head_dim)
    return head_dim


def _scaling(fields: Fields, spec: ModelSpec, factors: Sequence[float] | None, *, where: str) -> RopeScaling | None:
    linear = _linear_scaling(fields)
    if factors is None:
        return linear
    if linear is not None:
        raise UnsupportedModel(f"{where}: both {ROPE_FACTORS} and a linear rope.scaling.factor are given")
    context = None
    if fields.get("rope.scaling.original_context_length") is not None:
        context = fields.integer("rope.scaling.original_context_length", high=MAX_CONTEXT)
    return scaling_from_factors(spec, factors, where=f"{where}: {ROPE_FACTORS}", original_context=context)


def _linear_scaling(fields: Fields) -> RopeScaling | None:
    """A factor without a type is linear; `rope.scale_linear` is its older name."""
    key = "rope.scale_linear" if fields.get("rope.scaling.factor") is None else "rope.scaling.factor"
    if fields.get("rope.scaling.type") == "none" or fields.get(key) in (None, 0.0, 1.0):
        return None
    return RopeScaling(kind="linear", factor=_as_written(fields.number(key)))


def _eos_token_ids(tokenizer: Fields, *, vocab_size: int) -> tuple[int, ...]:
    ids = [token for key in _EOS_KEYS for token in tokenizer.token_ids(key, vocab_size=vocab_size)]
    tokens, types = tokenizer.get("tokens"), tokenizer.get("token_type")
    if isinstance(tokens, tuple) and isinstance(types, tuple) and len(tokens) == len(types):
        named = (tokens.index(text) for text in _EOS_TEXTS if text in tokens)
        ids += [token for token in named if types[token] == _CONTROL]
    return tuple(dict.fromkeys(ids))
