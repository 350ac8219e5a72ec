"""Every family, on the CPU's own attention and on the plain one of devices, against the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from backends.api import LoadableModel, Runner
from backends.loading import open_model
from backends.models.spec import RopeScaling
from backends.testing.models import FAMILY_NAMES, FamilyName, ModelSizes, make_random_model
from backends.testing.oracle import Oracle
from tests.backends.onnx.drive import Part, make_runner, run

SIZES = ModelSizes(num_layers=3, hidden_size=64, ffn_size=96, num_heads=4, num_kv_heads=2, head_dim=16, window=5)
"""The window is smaller than every prompt and most chunks below."""
A = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77, 18, 400, 2, 9, 9, 31, 260, 7, 7, 55]
B = [400, 3, 3, 250, 19, 8, 120, 44, 45, 46, 47]
TOLERANCE = 1e-4


def random_model(folder: Path, family: FamilyName, **options: Any) -> LoadableModel:
    # Any: keywords of `make_random_model`
    return open_model(make_random_model(folder / family, sizes=SIZES, seed=4, family=family, **options))


def with_spec(model: LoadableModel, **changes: object) -> LoadableModel:
    return LoadableModel(spec=msgspec.structs.replace(model.spec, **changes), tensors=model.tensors)


def assert_follows_the_oracle(runner: Runner, model: LoadableModel) -> None:
    """Two sequences: chunks shorter and longer than the window, decoding, verifying, idle slots between them."""
    of_a, of_b = (Oracle(model).logits(tokens) for tokens in (A, B))

    made_a = [run(runner, Part(0, A[:4], rows=4))]
    mixed = run(runner, Part(3, B[:2], rows=2), Part(0, A[4:15], start=4, rows=11))
    made_b = [mixed[:2]]
    made_a.append(mixed[2:])
    mixed = run(runner, Part(0, A[15:16], start=15), Part(3, B[2:10], start=2, rows=8))
    made_a.append(mixed[:1])
    made_b.append(mixed[1:])
    mixed = run(runner, Part(3, B[10:], start=10), Part(0, A[16:], start=16, rows=4))
    made_b.append(mixed[:1])
    made_a.append(mixed[1:])

    np.testing.assert_allclose(np.concatenate(made_a), of_a, atol=TOLERANCE)
    np.testing.assert_allclose(np.concatenate(made_b), of_b, atol=TOLERANCE)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family(family: FamilyName, device: str, tmp_path: Path) -> None:
    """Windows, caps, two rotary embeddings, all kinds of norms and experts, cut up as an engine would."""
    model = random_model(tmp_path, family)

    assert_follows_the_oracle(make_runner(model, device=device), model)


@pytest.mark.parametrize("window", [1, 2, 8, 19, 20, 300])
def test_windows_count_the_token_itself(window: int, device: str, tmp_path: Path) -> None:
    """Windows count the token itself: from a token that sees only itself to a window that nothing reaches."""
    model = with_spec(random_model(tmp_path, "llama"), windows=(window, 0, window))

    assert_follows_the_oracle(make_runner(model, device=device), model)


def test_strong_caps_and_an_own_score_scale(device: str, tmp_path: Path) -> None:
    """Caps small enough to bend every score and logit."""
    changes = {"attention_softcap": 0.7, "final_softcap": 1.5, "attention_scale": 0.6, "embedding_scale": 3.0}
    model = with_spec(random_model(tmp_path, "gemma2"), **changes)

    assert_follows_the_oracle(make_runner(model, device=device), model)


def test_two_rotary_embeddings_of_which_one_is_scaled(device: str, tmp_path: Path) -> None:
    """Gemma 3: windowed layers have a base of their own, the others are stretched."""
    scaling = RopeScaling(kind="linear", factor=8.0)
    model = random_model(tmp_path, "gemma3", rope_theta=1e6, rope_scaling=scaling)
    assert len({model.spec.rope(layer) for layer in range(3)}) == 2

    assert_follows_the_oracle(make_runner(model, device=device), model)


def test_rotary_by_factors(device: str, tmp_path: Path) -> None:
    """LongRoPE: each frequency divided by its own, both tables amplified."""
    scaling = RopeScaling(kind="factors", factors=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0), attention_factor=1.2)
    model = random_model(tmp_path, "phi3", rope_scaling=scaling)

    assert_follows_the_oracle(make_runner(model, device=device), model)
