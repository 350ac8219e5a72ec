"""Every family against the oracle: windows, soft caps, norms, experts, rotary embeddings of several kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest

from backends.api import KVLimit, LoadableModel
from backends.loading import open_model
from backends.models.spec import RopeScaling
from backends.testing.models import FAMILY_NAMES, FamilyName, ModelSizes, make_random_model
from backends.testing.oracle import Oracle
from tests.backends.torch.drive import Part, make_runner, poison, run

SIZES = ModelSizes(num_layers=3, hidden_size=64, ffn_size=96, vocab_size=512, window=7)
TOKENS = np.random.default_rng(5).integers(0, 512, 40).tolist()
TOLERANCE = 1e-4


def open_family(directory: Path, family: FamilyName, *, sizes: ModelSizes = SIZES) -> LoadableModel:
    return open_model(make_random_model(directory / family, family=family, sizes=sizes, seed=3))


def assert_equals_oracle(model: LoadableModel, *, layout: Literal["slot", "paged"]) -> None:
    """A prompt in two chunks, a step with others, then single tokens, across the edges of windows and blocks."""
    runner, expected = make_runner(model, layout=layout), Oracle(model).logits(TOKENS)
    poison(runner)

    parts = [
        run(runner, Part(1, TOKENS[:20], rows=20)),
        run(runner, Part(0, TOKENS[:3]), Part(1, TOKENS[20:34], start=20, rows=14))[1:],
        *(run(runner, Part(1, [TOKENS[at]], start=at), Part(0, [9], start=at))[:1] for at in range(34, 40)),
    ]

    np.testing.assert_allclose(np.concatenate(parts), expected, atol=TOLERANCE)


@pytest.mark.parametrize("layout", ["slot", "paged"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_families_equal_the_oracle(family: FamilyName, layout: Literal["slot", "paged"], tmp_path: Path) -> None:
    """Chunked, batched and cached, in either layout, for all that the spec can switch on."""
    assert_equals_oracle(open_family(tmp_path, family), layout=layout)


def test_windowed_prompts_longer_than_one_attention_call(tmp_path: Path) -> None:
    """Each call of 256 queries reads only the keys that its queries can see."""
    model = open_family(tmp_path, "gemma3", sizes=msgspec.structs.replace(SIZES, window=50))
    runner = make_runner(model)
    runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=1, max_context=700))
    tokens = np.random.default_rng(1).integers(0, 512, 600).tolist()
    poison(runner)

    logits = [run(runner, Part(0, tokens[:300], rows=60)), run(runner, Part(0, tokens[300:], start=300, rows=60))]

    expected = Oracle(model).logits(tokens)
    np.testing.assert_allclose(np.concatenate(logits), expected[[*range(240, 300), *range(540, 600)]], atol=TOLERANCE)


@pytest.mark.parametrize("change", [{"normalized_experts": False}, {"experts_per_token": 1}, {"experts_per_token": 4}])
def test_experts(change: dict[str, object], tmp_path: Path) -> None:
    """Weights as they are or summing to one; one expert, or all of them."""
    model = open_family(tmp_path, "mixtral")

    changed = LoadableModel(spec=msgspec.structs.replace(model.spec, **change), tensors=model.tensors)

    assert_equals_oracle(changed, layout="slot")


@pytest.mark.parametrize(
    "change",
    [
        {"attention_scale": 0.3},
        {"final_softcap": 2.0},
        {"attention_softcap": 1.5},
        {"embedding_scale": 3.0},
        {"activation": "gelu_tanh"},
        {"windows": (1, 0, 5)},
        {"windows": (4, 0, 4), "attention_softcap": 1.5, "local_rope_theta": 100.0},
        {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
        {"rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_context=16)},
        {"rope_scaling": RopeScaling(kind="factors", factors=(1.0,) * 4 + (3.0,) * 4, attention_factor=1.2)},
    ],
)
def test_each_switch_alone(change: dict[str, object], tmp_path: Path) -> None:
    """Each switch, set on a plain Llama and strong enough to show, equals the oracle."""
    plain = open_family(tmp_path, "llama")
    model = LoadableModel(spec=msgspec.structs.replace(plain.spec, **change), tensors=plain.tensors)
    assert abs(Oracle(model).logits(TOKENS) - Oracle(plain).logits(TOKENS)).max() > 100 * TOLERANCE

    assert_equals_oracle(model, layout="slot")
