"""config.json → ModelSpec."""

from __future__ import annotations

import pytest

from backends.errors import ModelError, UnsupportedModel
from backends.models.families import spec_from_config
from backends.models.spec import ModelSpec, RopeScaling

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
    "window": ({"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, "sliding_window is 4096"),
    "window by default": ({"architectures": ["MistralForCausalLM"]}, "sliding_window is missing; mistral then uses"),
    "window switched on": (
        {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True},
        "use_sliding_window is True",
    ),
    "window in layer types": ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    "layer types of no list": ({"layer_types": 5}, "layer_types is 5"),
}


@pytest.mark.parametrize(("changes", "message"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_switches_without_a_rule_are_unsupported(changes: Config, message: str) -> None:
    """What would change the mathematics is refused, naming the file, the field and what is supported."""
    with pytest.raises(UnsupportedModel, match=message) as caught:
        spec_of({**LLAMA, **changes})

    assert str(caught.value).startswith("models/m/config.json: ")


BAD: dict[str, tuple[Config, str]] = {
    "own code": ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map .* never run"),
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
