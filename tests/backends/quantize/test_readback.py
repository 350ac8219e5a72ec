"""Comparing the tokenizer of a quantized file with that of its source."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer

from backends.errors import ModelError
from backends.quantize import quantize_file
from backends.testing.models import ModelSizes, make_random_model
from backends.text.load import load_text

SIZES = ModelSizes(num_layers=1, hidden_size=64, ffn_size=64, num_heads=2, num_kv_heads=2, vocab_size=400)


def test_text_is_read_as_before(tmp_path: Path) -> None:
    """The file has the folder's tokenizer and chat template."""
    folder = make_random_model(tmp_path / "m", sizes=SIZES)

    quantize_file(folder, tmp_path / "q.gguf", format="Q8_0")

    ours, theirs = load_text(tmp_path / "q.gguf"), load_text(folder)
    chat = "<|im_start|>user\nHow many guests?<|im_end|>\n"
    assert ours.tokenizer.encode_chat(chat) == theirs.tokenizer.encode_chat(chat)
    assert ours.template is not None
    assert ours.tokenizer.eos_id == theirs.tokenizer.eos_id


def test_other_ids_end_the_run_unless_wanted(tmp_path: Path) -> None:
    """The refusal names what differs; `keep_going` writes the file and reports it."""
    folder = make_random_model(tmp_path / "m", sizes=SIZES)
    _with_greedy_token(folder)

    with pytest.raises(ModelError, match=r"take the space.*--keep-going"):
        quantize_file(folder, tmp_path / "q.gguf", format="Q8_0")
    assert not (tmp_path / "q.gguf").exists()
    report = quantize_file(folder, tmp_path / "q.gguf", format="Q8_0", keep_going=True)

    assert (tmp_path / "q.gguf").exists()
    assert any("take the space" in note for note in report.notes)
    assert any("would become the tokens" in note for note in report.notes)


def _with_greedy_token(folder: Path) -> None:
    """`<|im_end|>` swallows the space after it, as Phi-3's turn markers do."""
    path = folder / "tokenizer.json"
    document = msgspec.json.decode(path.read_bytes())
    for token in document["added_tokens"]:
        token["rstrip"] = token["content"] == "<|im_end|>"
    path.write_bytes(msgspec.json.encode(document))
    assert AddedToken("<|im_end|>", rstrip=True, special=True, normalized=False) in (
        Tokenizer.from_file(str(path)).get_added_tokens_decoder().values()
    )
