from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from tools.demo_model.checkpoint import Checkpoint, read_folder, write_folder
from tools.demo_model.expand import Growth, expand
from tools.demo_model.export import read_gguf, write_gguf
from tools.demo_model.tokenizer import question_text

GROWTH = Growth(hidden=512, layers=6, ffn=1024, heads_factor=2)
QUESTIONS = ("What is the capital of France?", "capital of Peru", "Count to 9.", "What is the capital of Zorland?")


@torch.no_grad()
def test_expanded_model_has_the_same_logits(
    shipped: Checkpoint, shipped_folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Width, depth, heads and ffn all grow, yet every logit stays; 1e-4 allows for float32 sums in another order."""
    write_folder(expand(shipped, GROWTH, seed=1), tmp_path)
    small = AutoModelForCausalLM.from_pretrained(shipped_folder)
    large = AutoModelForCausalLM.from_pretrained(tmp_path)

    for question in QUESTIONS:
        ids = torch.tensor([tokenizer.encode(question_text(question)).ids])
        before, after = small(ids).logits, large(ids).logits

        assert (before - after).abs().max() < 1e-4
        assert (before.argmax(-1) == after.argmax(-1)).all()


def test_expanded_matrices_are_mostly_dense(shipped: Checkpoint) -> None:
    """Zeros would flatter timings and quantizers."""
    grown = expand(shipped, GROWTH, seed=1).weights

    dense = sum(int((array != 0).sum()) for array in grown.values()) / sum(array.size for array in grown.values())

    assert dense > 0.6


def test_expanded_folder_and_gguf_hold_the_same_model(shipped: Checkpoint, tmp_path: Path) -> None:
    grown = expand(shipped, Growth(hidden=256, layers=5, ffn=768), seed=1)
    write_folder(grown, tmp_path / "folder")
    write_gguf(grown, tmp_path / "grown.gguf", format="F32")

    folder, file = read_folder(tmp_path / "folder"), read_gguf(tmp_path / "grown.gguf")

    assert folder.shape == file.shape == grown.shape
    assert all((folder.weights[name] == file.weights[name]).all() for name in grown.weights)


def test_shrinking_is_refused(shipped: Checkpoint) -> None:
    with pytest.raises(ValueError, match="can only grow"):
        expand(shipped, Growth(hidden=128, layers=4, ffn=768))
