from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from backends.loading import open_model
from backends.models.spec import RopeScaling
from backends.testing.models import FamilyName, make_random_model
from backends.testing.oracle import Oracle

PROMPT = [11, 200, 45, 301, 7, 93, 128, 64, 5]


def reference_logits(folder: Path, tokens: list[int]) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return np.asarray(model(torch.tensor([tokens])).logits[0])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_logits_equal_transformers(tmp_path: Path, family: FamilyName) -> None:
    """The reference has a reference."""
    folder = make_random_model(tmp_path / family, family=family)

    ours = Oracle(open_model(folder)).logits(PROMPT)

    np.testing.assert_allclose(ours, reference_logits(folder, PROMPT), atol=1e-4)


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


def test_greedy_equals_transformers_over_64_tokens(tmp_path: Path) -> None:
    """Continuations agree, not only single positions."""
    folder = make_random_model(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = list(PROMPT)
    for _ in range(64):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))

    assert Oracle(open_model(folder)).greedy(PROMPT, 64) == tokens[len(PROMPT) :]


def test_gaps_tell_how_sure_each_choice_was(tmp_path: Path) -> None:
    """One gap a token, none negative."""
    oracle = Oracle(open_model(make_random_model(tmp_path / "model")))

    tokens, gaps = oracle.greedy_with_gaps(PROMPT, 5)

    assert len(tokens) == len(gaps) == 5
    assert min(gaps) >= 0
