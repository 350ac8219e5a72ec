"""Small models in both file formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.testing.models import ModelSizes, make_random_model, write_gguf_of

SIZES = ModelSizes(num_layers=2, hidden_size=256, ffn_size=256, num_heads=4, num_kv_heads=2, vocab_size=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound Llama folder."""
    return make_random_model(tmp_path / "model", sizes=SIZES)


@pytest.fixture
def gguf_file(folder: Path, tmp_path: Path) -> Path:
    """The same model as the gguf package writes it, in F16."""
    return write_gguf_of(folder, tmp_path / "f16.gguf", "F16")
