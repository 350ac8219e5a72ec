"""Every family against transformers, from safetensors and from GGUF."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import transformers

from backends.api import F32
from backends.loading import open_model
from backends.testing.models import FAMILY_NAMES, FamilyName, ModelSizes, make_random_model, write_gguf_of
from backends.testing.oracle import Oracle

SIZES = ModelSizes(
    num_layers=4, hidden_size=64, ffn_size=96, num_heads=4, num_kv_heads=2, vocab_size=384, max_context=256, window=12
)
"""Four layers, so that windowed ones alternate with others; the window is shorter than what is generated."""
PROMPT = [11, 200, 45, 301, 7, 93, 128, 64, 5]
TIED = ("gemma2", "gemma3", "qwen2")


class Reference(msgspec.Struct, frozen=True):
    """Results of transformers: 64 greedy tokens after the prompt, and the logits of all of them."""

    tokens: list[int]
    logits: F32


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request: pytest.FixtureRequest) -> FamilyName:
    name: FamilyName = request.param
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, family: FamilyName) -> Path:
    sizes = msgspec.structs.replace(SIZES, tied_head=family in TIED)
    return make_random_model(tmp_path_factory.mktemp("references") / family, sizes=sizes, family=family)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = list(PROMPT)
    with torch.no_grad():
        for _ in range(64):
            tokens.append(int(network(torch.tensor([tokens])).logits[0, -1].argmax()))
        return Reference(tokens, np.asarray(network(torch.tensor([tokens])).logits[0]))


@pytest.fixture(params=["safetensors", "GGUF"])
def path(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Path:
    return folder if request.param == "safetensors" else write_gguf_of(folder, tmp_path / "model.gguf", "F32")


def test_logits_and_greedy_ids_equal_transformers(path: Path, reference: Reference) -> None:
    """Logits to 1e-4 over 73 positions, and 64 greedy ids: each has the largest logit after those before it."""
    oracle = Oracle(open_model(path))

    found = oracle.logits(reference.tokens)

    np.testing.assert_allclose(found, reference.logits, atol=1e-4)
    assert found[len(PROMPT) - 1 : -1].argmax(axis=-1).tolist() == reference.tokens[len(PROMPT) :]
