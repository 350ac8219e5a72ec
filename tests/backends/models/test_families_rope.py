"""Rotary scaling against transformers, and its recovery from the factors in GGUF files."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from backends.errors import UnsupportedModel
from backends.models.families.rope import scaling_from_factors
from backends.models.rotary import llama3_factors
from backends.models.spec import ModelSpec, Rope, RopeScaling

SPEC = ModelSpec(
    family="llama",
    hidden_size=512,
    num_layers=1,
    num_heads=8,
    num_kv_heads=8,
    head_dim=64,
    ffn_size=64,
    vocab_size=64,
    max_context=131072,
    rope_theta=500000.0,
)
LLAMA31 = RopeScaling(kind="llama3", factor=8.0)
LLAMA32 = RopeScaling(kind="llama3", factor=32.0)


def factors_of(scaling: RopeScaling) -> list[float]:
    return llama3_factors(Rope(SPEC.rope_theta, scaling), SPEC.head_dim)


def recover(factors: list[float], *, context: int | None = None) -> RopeScaling | None:
    stored = np.array(factors, np.float32).tolist()
    return scaling_from_factors(SPEC, stored, where="m.gguf: rope_freqs.weight", original_context=context)


@pytest.mark.parametrize("scaling", [LLAMA31, LLAMA32], ids=["3.1", "3.2"])
def test_factors_are_those_of_transformers(scaling: RopeScaling) -> None:
    """Dividing the plain frequencies by the factors gives transformers' inverse frequencies."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=512,
        num_attention_heads=8,
        max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": scaling.factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    plain = 500000.0 ** (-np.arange(0, 64, 2) / 64)

    found = plain / factors_of(scaling)

    assert np.allclose(found, expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("scaling", [LLAMA31, LLAMA32], ids=["3.1", "3.2"])
def test_llama3_is_recovered_from_its_factors(scaling: RopeScaling) -> None:
    """The parameters of published models come back from the float32 factors alone."""
    assert recover(factors_of(scaling)) == scaling


def test_another_original_context_is_recovered_with_its_metadata() -> None:
    """`rope.scaling.original_context_length` says where the blend lies."""
    scaling = msgspec.structs.replace(LLAMA31, original_context=4096)

    assert recover(factors_of(scaling), context=4096) == scaling


def test_constant_factors_are_linear_or_nothing() -> None:
    """All factors equal is linear scaling; all one is none."""
    assert recover([4.0] * 32) == RopeScaling(kind="linear", factor=4.0)
    assert recover([1.0] * 32) is None


@pytest.mark.parametrize(
    "factors",
    [
        [1.0] * 31,
        [1.0] * 31 + [8.0],
        [*factors_of(LLAMA31)[:-1], 8.5],
        [0.0] * 32,
        [-1.0] * 32,
        [float("nan")] * 32,
        [float("inf")] * 32,
        factors_of(RopeScaling(kind="llama3", factor=8.0, original_context=4096)),
    ],
    ids=["too few", "one off", "wrong end", "zero", "negative", "nan", "infinite", "unknown context"],
)
def test_other_factors_are_unsupported(factors: list[float]) -> None:
    """Factors that no known scaling reproduces are refused rather than approximated."""
    with pytest.raises(UnsupportedModel, match=r"rope_freqs\.weight"):
        recover(factors)
