"""A model on disk that the fake runner can stand in for."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.testing.models import ModelSizes, make_random_model

SIZES = ModelSizes(
    num_layers=1, hidden_size=32, ffn_size=32, num_heads=2, num_kv_heads=1, vocab_size=300, max_context=1_000_000
)


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vocabulary of 300, a context so long that no test ever reaches its end by accident."""
    return make_random_model(tmp_path_factory.mktemp("models") / "fake", sizes=SIZES)
