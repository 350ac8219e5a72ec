"""GGUF metadata → ModelSpec."""

from __future__ import annotations

import pytest

from backends.errors import ModelError, UnsupportedModel
from backends.models.families import GgufModel, spec_from_metadata
from backends.models.spec import ModelSpec, RopeScaling

Metadata = dict[str, object]

HEAD = ("output.weight",)
LLAMA: Metadata = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
    "llama.rope.freq_base": 500000.0,
    "llama.vocab_size": 100,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.bos_token_id": 1,
}


def model_of(metadata: Metadata, *, tensors: tuple[str, ...] = HEAD, factors: list[float] | None = None) -> GgufModel:
    return spec_from_metadata(metadata, tensor_names=tensors, rope_factors=factors, where="m.gguf")


def renamed(architecture: str) -> Metadata:
    values = {key.replace("llama.", f"{architecture}."): value for key, value in LLAMA.items()}
    return {**values, "general.architecture": architecture}


def test_a_plain_llama() -> None:
    """Sizes come from the metadata, and a float32 epsilon is read as the decimal that was meant."""
    model = model_of(LLAMA)

    assert model.interleaved_rotary
    assert model.spec == ModelSpec(
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
        rope_theta=500000.0,
        eos_token_ids=(2,),
        bos_token_id=1,
    )


def test_tensors_decide_about_head_and_biases() -> None:
    """No `output.weight` means tied; llama has biases exactly where they are stored."""
    spec = model_of(LLAMA, tensors=("blk.0.attn_q.bias",)).spec

    assert (spec.tied_head, spec.qkv_bias) == (True, True)


def test_qwen2_always_has_biases_and_is_not_interleaved() -> None:
    """A Qwen2 file that lost its biases is damaged, not a model without them."""
    model = model_of(renamed("qwen2"))

    assert (model.spec.family, model.spec.qkv_bias, model.interleaved_rotary) == ("qwen2", True, False)


def test_qwen3_has_head_norms_and_its_own_head_size() -> None:
    """The head size is the key length, not hidden size over heads."""
    model = model_of({**renamed("qwen3"), "qwen3.attention.key_length": 32, "qwen3.attention.value_length": 32})

    assert (model.spec.qk_norm, model.spec.head_dim, model.interleaved_rotary) == (True, 32, False)


def test_the_vocabulary_is_the_token_list() -> None:
    """The number of tokens wins over `vocab_size`, which some files lack."""
    assert model_of({**LLAMA, "tokenizer.ggml.tokens": ("a",) * 7}).spec.vocab_size == 7


def test_end_tokens_of_every_kind_are_collected() -> None:
    """End of sequence, of turn, and control tokens known by their text; a normal token of that text is not one."""
    texts = ["x"] * 10
    texts[4], texts[5], texts[6] = "<|endoftext|>", "<|im_end|>", "<|end|>"
    metadata = {
        **LLAMA,
        "tokenizer.ggml.tokens": tuple(texts),
        "tokenizer.ggml.token_type": (1, 1, 1, 1, 3, 3, 1, 1, 1, 1),
        "tokenizer.ggml.eot_token_id": 3,
    }

    assert model_of(metadata).spec.eos_token_ids == (2, 3, 5, 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            RopeScaling(kind="linear", factor=4.0),
        ),
        ({"llama.rope.scaling.factor": 2.0}, RopeScaling(kind="linear", factor=2.0)),
        ({"llama.rope.scale_linear": 2.0}, RopeScaling(kind="linear", factor=2.0)),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, None),
        ({"llama.rope.scaling.factor": 1.0}, None),
    ],
    ids=["linear", "factor alone", "old name", "none", "factor 1"],
)
def test_linear_scaling(changes: Metadata, expected: RopeScaling | None) -> None:
    """A factor without a type is linear, as in llama.cpp; type none switches it off."""
    assert model_of({**LLAMA, **changes}).spec.rope_scaling == expected


GEMMA2: Metadata = {**renamed("gemma2"), "gemma2.attention.sliding_window": 8}


@pytest.mark.parametrize(
    ("metadata", "windows"),
    [
        (GEMMA2, (8, 0)),
        ({**GEMMA2, "gemma2.attention.sliding_window_pattern": (False, True)}, (0, 8)),
        ({**LLAMA, "llama.attention.sliding_window": 8}, (8, 8)),
        ({**renamed("gemma3"), "gemma3.attention.sliding_window": 8, "gemma3.block_count": 7}, (8,) * 5 + (0, 8)),
        ({**renamed("qwen2"), "qwen2.attention.sliding_window": 0}, ()),
    ],
)
def test_windows_by_each_architectures_rule(metadata: Metadata, windows: tuple[int, ...]) -> None:
    """Windows follow the pattern that llama.cpp has built in, or the list of the file."""
    assert model_of(metadata).spec.windows == windows


@pytest.mark.parametrize(("layers", "scale"), [(2, None), (46, 0.25)])
def test_the_largest_gemma2_scales_scores_by_its_width(layers: int, scale: float | None) -> None:
    """The file does not say so; llama.cpp tells the model by its number of layers."""
    spec = model_of({**GEMMA2, "gemma2.block_count": layers, "gemma2.attention.key_length": 32}).spec

    assert (spec.attention_scale, spec.embedding_scale) == (scale, 8.0)
    assert (spec.attention_softcap, spec.final_softcap) == (50.0, 30.0)


def test_long_rope() -> None:
    """The context ends where the short factors end."""
    metadata = {**renamed("phi3"), "phi3.rope.scaling.original_context_length": 64}

    spec = spec_from_metadata(
        metadata, tensor_names=HEAD, rope_factors=None, short_rope_factors=[1.5] * 8, where="m.gguf"
    ).spec

    assert spec.max_context == 64
    assert spec.rope_scaling is not None
    assert spec.rope_scaling.factors == (1.5,) * 8
    assert len(spec.notes) == 1


def test_mixtures_are_counted() -> None:
    """Mixtral files call themselves llama and count their experts."""
    spec = model_of({**LLAMA, "llama.expert_count": 8, "llama.expert_used_count": 2}).spec

    assert (spec.num_experts, spec.experts_per_token, spec.normalized_experts) == (8, 2, True)


UNSUPPORTED: dict[str, tuple[Metadata, str]] = {
    "architecture": (
        {"general.architecture": "gpt2"},
        "general.architecture is 'gpt2'; this build supports llama, qwen2",
    ),
    "architecture is a number": ({"general.architecture": 5}, "general.architecture is 5"),
    "window of unknown layers": (
        {**renamed("qwen2"), "qwen2.attention.sliding_window": 8},
        "qwen2.attention.sliding_window is 8",
    ),
    "shared experts": ({"llama.expert_shared_count": 1}, "llama.expert_shared_count is 1"),
    "gating": ({"llama.expert_gating_func": 2}, "llama.expert_gating_func is 2"),
    "not causal": ({"llama.attention.causal": False}, "llama.attention.causal is False"),
    "yarn": ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
    "unequal values": ({"llama.attention.value_length": 32}, "llama.attention.value_length is 32"),
    "partial rotary": ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count is 8"),
}


@pytest.mark.parametrize(("changes", "message"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_switches_without_a_rule_are_unsupported(changes: Metadata, message: str) -> None:
    """Settings that would change the mathematics are refused, naming the file, the key and what is supported."""
    with pytest.raises(UnsupportedModel, match=message) as caught:
        model_of({**LLAMA, **changes})

    assert str(caught.value).startswith("m.gguf: ")


BAD: dict[str, tuple[Metadata, str]] = {
    "layers missing": ({"llama.block_count": None}, "llama.block_count is missing"),
    "layers 2^32-1": ({"llama.block_count": 2**32 - 1}, "llama.block_count is 4294967295"),
    "heads 0": ({"llama.attention.head_count": 0}, "llama.attention.head_count is 0"),
    "heads per layer": ({"llama.attention.head_count_kv": (2, 4)}, "head_count_kv is"),
    "eps missing": ({"llama.attention.layer_norm_rms_epsilon": None}, "epsilon is missing"),
    "eps not a number": ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon is nan"),
    "theta infinite": ({"llama.rope.freq_base": float("inf")}, "freq_base is inf"),
    "no vocabulary": ({"llama.vocab_size": None}, "llama.vocab_size is missing"),
    "odd head size": ({"llama.attention.key_length": 15}, "head size 15 is odd"),
    "heads do not divide": ({"llama.attention.head_count": 5}, "not divisible by 5"),
    "end token beyond vocabulary": ({"tokenizer.ggml.eos_token_id": 100}, "tokenizer.ggml.eos_token_id is 100"),
    "linear factor negative": ({"llama.rope.scaling.factor": -2.0}, "llama.rope.scaling.factor is -2.0"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_numbers_are_refused(changes: Metadata, message: str) -> None:
    """Numbers that cannot be are errors that name the file and the key."""
    with pytest.raises(ModelError, match=message) as caught:
        model_of({**LLAMA, **changes})

    assert str(caught.value).startswith("m.gguf: ")


def test_factors_and_linear_scaling_exclude_each_other() -> None:
    """Two scalings at once have no agreed meaning."""
    with pytest.raises(UnsupportedModel, match=r"both rope_freqs\.weight and"):
        model_of({**LLAMA, "llama.rope.scaling.factor": 2.0}, factors=[1.0] * 8)
