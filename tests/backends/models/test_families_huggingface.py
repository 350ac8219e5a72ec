"""config.json → ModelSpec."""

from __future__ import annotations

import math

import pytest

from backends.errors import ModelError, UnsupportedModel
from backends.models.families import spec_from_config
from backends.models.spec import ModelSpec, Rope, RopeScaling

Config = dict[str, object]

LLAMA: Config = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "eos_token_id": 2,
    "bos_token_id": 1,
}
LLAMA3_ROPE: Config = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GEMMA2: Config = {"architectures": ["Gemma2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh", "head_dim": 16}
GEMMA3: Config = {**GEMMA2, "architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 7}
QWEN3_MOE: Config = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
PHI3: Config = {"architectures": ["Phi3ForCausalLM"]}
LONG_ROPE: Config = {"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [4] * 8}


def spec_of(config: Config, generation: Config | None = None) -> ModelSpec:
    return spec_from_config(config, generation or {}, where="models/m")


def test_a_plain_llama_names_only_its_sizes() -> None:
    """Everything that config.json leaves out takes the architecture's own default."""
    assert spec_of(LLAMA) == ModelSpec(
        family="llama",
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        ffn_size=96,
        vocab_size=100,
        max_context=128,
        rms_norm_eps=1e-5,
        eos_token_ids=(2,),
        bos_token_id=1,
    )


def test_absent_fields_take_the_class_defaults() -> None:
    """Old files lack eps, KV heads and theta; transformers then uses 1e-6, all heads and 10000."""
    old = {key: value for key, value in LLAMA.items() if key not in ("rms_norm_eps", "num_key_value_heads")}

    spec = spec_of(old)

    assert (spec.rms_norm_eps, spec.num_kv_heads, spec.rope_theta) == (1e-6, 4, 10000.0)


def test_qwen2_has_biases() -> None:
    """Qwen2 always has query, key and value biases; its window is off unless switched on."""
    spec = spec_of(
        {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 4096, "use_sliding_window": False}
    )

    assert (spec.family, spec.qkv_bias, spec.qk_norm) == ("qwen2", True, False)


@pytest.mark.parametrize(("head_dim", "expected"), [(32, 32), (None, 128)])
def test_qwen3_has_head_norms_and_its_own_head_size(head_dim: int | None, expected: int) -> None:
    """Qwen3 normalises query and key heads; its head size is 128 unless given."""
    spec = spec_of({**LLAMA, "architectures": ["Qwen3ForCausalLM"], "head_dim": head_dim})

    assert (spec.qk_norm, spec.qkv_bias, spec.head_dim) == (True, False, expected)


def test_mistral_without_a_window_is_supported() -> None:
    """`sliding_window: null` is plain attention."""
    spec = spec_of({**LLAMA, "architectures": ["MistralForCausalLM"], "sliding_window": None})

    assert spec.family == "mistral"


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"architectures": ["MistralForCausalLM"]}, (4096, 4096)),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 8}, (8, 8)),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8}, ()),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8, "use_sliding_window": True}, ()),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "sliding_window": 8,
                "use_sliding_window": True,
                "max_window_layers": 1,
            },
            (0, 8),
        ),
        ({**GEMMA2, "sliding_window": 8}, (8, 0)),
        ({**GEMMA2, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]}, (0, 8)),
        ({**GEMMA3, "sliding_window": 8}, (8, 8, 8, 8, 8, 0, 8)),
        ({**GEMMA3, "sliding_window": 8, "sliding_window_pattern": 2}, (8, 0, 8, 0, 8, 0, 8)),
        ({**PHI3, "sliding_window": 2047}, (2047, 2047)),
        (PHI3, ()),
    ],
)
def test_windows_by_each_architectures_rule(changes: Config, windows: tuple[int, ...]) -> None:
    """Layers are windowed all, from one on, in a pattern, or as `layer_types` says."""
    assert spec_of({**LLAMA, **changes}).windows == windows


def test_gemma2_scales_and_caps() -> None:
    """Fields of Gemma 2 have defaults of their own; an explicit null switches a cap off."""
    spec = spec_of({**LLAMA, **GEMMA2, "query_pre_attn_scalar": 64, "attn_logit_softcapping": None})

    assert (spec.embedding_scale, spec.attention_scale, spec.tied_head) == (8.0, 0.125, True)
    assert (spec.attention_softcap, spec.final_softcap) == (0.0, 30.0)
    assert (spec.post_norm, spec.activation) == (True, "gelu_tanh")


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 1e6, "rope_local_base_freq": 5e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                "sliding_attention": {"rope_theta": 5e3, "rope_type": "default"},
            }
        },
    ],
    ids=["old", "new"],
)
def test_gemma3_turns_its_windowed_layers_at_another_base(changes: Config) -> None:
    """Scaling belongs to the layers that see everything."""
    spec = spec_of({**LLAMA, **GEMMA3, "sliding_window": 8, **changes})

    assert spec.rope(0) == Rope(5e3)
    assert spec.rope(5) == Rope(1e6, RopeScaling(kind="linear", factor=8.0))


def test_experts_have_a_width_of_their_own() -> None:
    """Qwen3-MoE names it `moe_intermediate_size`, Mixtral `intermediate_size`."""
    qwen = spec_of({**LLAMA, **QWEN3_MOE, "norm_topk_prob": True})
    mixtral = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 1}

    assert (qwen.num_experts, qwen.experts_per_token, qwen.ffn_size, qwen.normalized_experts) == (8, 2, 32, True)
    assert spec_of({**LLAMA, **mixtral}).ffn_size == 96


def test_long_rope_ends_the_context_where_its_short_factors_end() -> None:
    """The amplitude is LongRoPE's, and the shortened context is noted."""
    spec = spec_of({**LLAMA, **PHI3, "rope_scaling": LONG_ROPE, "original_max_position_embeddings": 64})

    assert spec.max_context == 64
    assert spec.rope_scaling is not None
    assert spec.rope_scaling.factors == (1.5,) * 8
    assert spec.rope_scaling.attention_factor == pytest.approx((1 + math.log(2) / math.log(64)) ** 0.5)
    assert "64 of the model's 128 tokens" in spec.notes[0]


def test_code_of_a_supported_architecture_is_not_needed() -> None:
    """Phi-3 was published with code that transformers has long taken in; it is neither run nor an obstacle."""
    own = {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}

    assert spec_of({**LLAMA, **PHI3, "auto_map": own}).family == "phi3"


@pytest.mark.parametrize(
    ("changes", "theta", "scaling"),
    [
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 1e6, None),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 1e4, RopeScaling(kind="linear", factor=2.0)),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}},
            1e6,
            RopeScaling(kind="linear", factor=4.0),
        ),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE}, 5e5, RopeScaling(kind="llama3", factor=8.0)),
        (
            {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 5e5, "factor": 32.0, "partial_rotary_factor": 1.0}},
            5e5,
            RopeScaling(kind="llama3", factor=32.0),
        ),
    ],
    ids=["theta", "null", "new default", "old linear", "new linear", "old llama3", "new llama3"],
)
def test_rope_in_old_and_new_spelling(changes: Config, theta: float, scaling: RopeScaling | None) -> None:
    """Both the old keys and the `rope_parameters` of transformers 5 are understood."""
    spec = spec_of({**LLAMA, **changes})

    assert (spec.rope_theta, spec.rope_scaling) == (theta, scaling)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (2, {}, (2,)),
        ([2, 3, 2], {}, (2, 3)),
        (2, {"eos_token_id": [7, 8]}, (7, 8)),
        (2, {"eos_token_id": None}, (2,)),
        (2, {"eos_token_id": 9}, (9,)),
        (None, {}, ()),
    ],
    ids=["int", "list", "generation list", "generation null", "generation int", "none"],
)
def test_end_tokens_come_from_the_generation_config_first(
    config: object, generation: Config, expected: tuple[int, ...]
) -> None:
    """generation_config.json wins, config.json is the fallback, and either may be a number or a list."""
    assert spec_of({**LLAMA, "eos_token_id": config}, generation).eos_token_ids == expected


UNSUPPORTED: dict[str, tuple[Config, str]] = {
    "architecture": (
        {"architectures": ["GPT2LMHeadModel"]},
        r"architectures\[0\] is 'GPT2LMHeadModel'.*Qwen3ForCausalLM",
    ),
    "no architecture": ({"architectures": []}, r"architectures\[0\] is None"),
    "architecture is a list": ({"architectures": [["LlamaForCausalLM"]]}, r"architectures\[0\]"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "attention bias": ({"attention_bias": True}, "attention_bias is True"),
    "mlp bias": ({"mlp_bias": True}, "mlp_bias is True"),
    "quantized by others": ({"quantization_config": {"quant_method": "awq"}}, "quantization_config is .*without it"),
    "partial rotary": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "yarn": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling: rope_type is 'yarn'"),
    "dynamic": ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_scaling: type is 'dynamic'"),
    "rope per layer type": ({"rope_parameters": {"full_attention": {}}}, "field 'full_attention'"),
    "partial rotary of one kind": (
        {**GEMMA3, "rope_parameters": {"full_attention": {}, "sliding_attention": {"partial_rotary_factor": 0.5}}},
        "sliding_attention: partial_rotary_factor is 0.5",
    ),
    "gemma with another activation": ({**GEMMA2, "hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
    "dense layers between experts": ({**QWEN3_MOE, "decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
    "dense layers listed": ({**QWEN3_MOE, "mlp_only_layers": [1]}, r"mlp_only_layers is \[1\]"),
}


@pytest.mark.parametrize(("changes", "message"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_switches_without_a_rule_are_unsupported(changes: Config, message: str) -> None:
    """Settings that would change the mathematics are refused, naming the file, the field and what is supported."""
    with pytest.raises(UnsupportedModel, match=message) as caught:
        spec_of({**LLAMA, **changes})

    assert str(caught.value).startswith("models/m/config.json: ")


BAD: dict[str, tuple[Config, str]] = {
    "own code": ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map .* never run"),
    "own code of another": ({**PHI3, "auto_map": {"AutoModel": "evil.LlamaForCausalLM"}}, "auto_map .* never run"),
    "layer types of no list": ({"layer_types": 5}, "layer_types is 5"),
    "layer types too few": ({"layer_types": ["full_attention"]}, "expected 2 times full_attention"),
    "layer types unknown": ({"layer_types": ["full_attention", "chunked"]}, "expected 2 times full_attention"),
    "windows without a size": (
        {"layer_types": ["full_attention", "sliding_attention"]},
        "sliding_window is missing; expected the size",
    ),
    "window 0": ({"architectures": ["MistralForCausalLM"], "sliding_window": 0}, "sliding_window is 0"),
    "more experts a token than experts": ({**QWEN3_MOE, "num_experts_per_tok": 9}, "num_experts_per_tok is 9"),
    "experts without a number": ({**QWEN3_MOE, "num_experts": None}, "num_local_experts is missing"),
    "softcap negative": ({**GEMMA2, "final_logit_softcapping": -1}, "final_logit_softcapping is -1"),
    "long factors of another size": (
        {**PHI3, "rope_scaling": {**LONG_ROPE, "short_factor": [1.0]}, "original_max_position_embeddings": 64},
        "short_factor is .*expected 8 positive factors",
    ),
    "long factors of text": (
        {**PHI3, "rope_scaling": {**LONG_ROPE, "short_factor": ["1"] * 8}, "original_max_position_embeddings": 64},
        "expected 8 positive factors",
    ),
    "hidden size missing": ({"hidden_size": None}, "hidden_size is missing; expected a whole number"),
    "hidden size 0": ({"hidden_size": 0}, "hidden_size is 0"),
    "hidden size negative": ({"hidden_size": -64}, "hidden_size is -64"),
    "hidden size huge": ({"hidden_size": 2**40}, "hidden_size is"),
    "hidden size text": ({"hidden_size": "64"}, "hidden_size is '64'"),
    "hidden size true": ({"hidden_size": True}, "hidden_size is True"),
    "hidden size fraction": ({"hidden_size": 64.0}, "hidden_size is 64.0"),
    "too many layers": ({"num_hidden_layers": 1025}, "num_hidden_layers is 1025"),
    "vocabulary 2^24": ({"vocab_size": 2**24}, "vocab_size"),
    "context 0": ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
    "heads do not divide": ({"num_attention_heads": 5, "num_key_value_heads": 5}, "not divisible by 5 attention heads"),
    "kv heads do not divide": ({"num_key_value_heads": 3}, "not divisible by 3 key/value heads"),
    "more kv heads than heads": ({"num_key_value_heads": 8}, "not divisible by 8"),
    "odd head size": ({"head_dim": 15}, "head size 15 is odd"),
    "eps 0": ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
    "eps infinite": ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000"),
    "theta negative": ({"rope_theta": -1.0}, "rope_theta is -1.0"),
    "theta text": ({"rope_theta": "big"}, "rope_theta is 'big'"),
    "tied is a number": ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
    "scaling is a list": ({"rope_scaling": [1]}, "rope_scaling is"),
    "scaling without kind": ({"rope_scaling": {"factor": 2.0}}, "rope_type is missing"),
    "scaling without factor": ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
    "llama3 without context": (
        {"rope_scaling": {**LLAMA3_ROPE, "original_max_position_embeddings": None}},
        "original_max_position_embeddings is missing",
    ),
    "llama3 without a band": ({"rope_scaling": {**LLAMA3_ROPE, "low_freq_factor": 4.0}}, "low_freq_factor is 4.0"),
    "end token beyond vocabulary": ({"eos_token_id": [1, 100]}, "eos_token_id"),
    "end token negative": ({"eos_token_id": -1}, "eos_token_id is -1"),
    "begin token text": ({"bos_token_id": "<s>"}, "bos_token_id"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_numbers_are_refused(changes: Config, message: str) -> None:
    """Numbers that cannot be are errors that name the file and the field."""
    with pytest.raises(ModelError, match=message) as caught:
        spec_of({**LLAMA, **changes})

    assert str(caught.value).startswith("models/m/config.json: ")
    assert len(str(caught.value)) < 300


def test_bad_generation_config_is_named() -> None:
    """A mistake in generation_config.json is blamed on that file."""
    with pytest.raises(ModelError, match=r"models/m/generation_config.json: eos_token_id is \[100\]"):
        spec_of(LLAMA, {"eos_token_id": [100]})
