from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from backends.api import AdapterWeights
from backends.loading import open_model
from backends.models.spec import RopeScaling
from backends.testing.models import ModelSizes, make_random_model
from backends.testing.oracle import Oracle

PROMPT = [11, 200, 45, 301, 7, 93, 128, 64, 5]


def reference_logits(folder: Path, tokens: list[int]) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return np.asarray(model(torch.tensor([tokens])).logits[0])


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling(kind="linear", factor=4.0),
        RopeScaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=256),
    ],
)
def test_scaled_rotary_equals_transformers(tmp_path: Path, scaling: RopeScaling) -> None:
    """Both kinds of frequency scaling are those of the field."""
    folder = make_random_model(tmp_path / "model", rope_scaling=scaling)
    tokens = PROMPT * 10

    ours = Oracle(open_model(folder)).logits(tokens)

    np.testing.assert_allclose(ours, reference_logits(folder, tokens), atol=1e-4)


def test_gaps_tell_how_sure_each_choice_was(tmp_path: Path) -> None:
    """One gap a token, none negative."""
    oracle = Oracle(open_model(make_random_model(tmp_path / "model")))

    tokens, gaps = oracle.greedy_with_gaps(PROMPT, 5)

    assert len(tokens) == len(gaps) == 5
    assert min(gaps) >= 0


def test_long_rope_equals_transformers(tmp_path: Path) -> None:
    """Long rope equals transformers within the original context, which is where our context ends."""
    factors = tuple(1.0 + index / 8 for index in range(32))
    scaling = RopeScaling(kind="factors", factors=factors, attention_factor=1.19, original_context=128)
    folder = make_random_model(tmp_path / "model", family="phi3", rope_scaling=scaling)
    tokens = PROMPT * 10
    model = open_model(folder)

    assert model.spec.max_context == 128
    np.testing.assert_allclose(Oracle(model).logits(tokens), reference_logits(folder, tokens), atol=1e-4)


def test_an_adapter_changes_what_it_targets(tmp_path: Path) -> None:
    """The oracle merges: the same logits as a model whose weight already holds the product."""
    model = open_model(make_random_model(tmp_path / "model", sizes=ModelSizes(num_layers=2)))
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 256), np.float32), rng.standard_normal((256, 4), np.float32)
    adapter = AdapterWeights(rank=4, scale=0.05, matrices={"layers.0.q": (a, b)})
    plain, adapted = Oracle(model), Oracle(model, adapter)

    plain._weights["layers.0.q"] = plain._weights["layers.0.q"] + np.float32(0.05) * (b @ a)

    assert np.array_equal(plain.logits(PROMPT), adapted.logits(PROMPT))
    assert not np.allclose(Oracle(model).logits(PROMPT), adapted.logits(PROMPT), atol=1e-2)
