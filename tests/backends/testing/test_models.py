"""The models that tests and benchmarks run on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from backends.loading import open_model
from backends.testing.models import H_MODEL, Dtype, ModelSizes, make_random_model, write_gguf_of
from backends.testing.vocabulary import SPECIALS, build_vocabulary
from backends.weights.gguf import read_metadata

TINY = ModelSizes(num_layers=1, hidden_size=64, ffn_size=64, num_heads=2, num_kv_heads=1)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Folders are reproducible file by file, and another seed gives other weights."""
    first = make_random_model(tmp_path / "a", sizes=TINY, seed=1)
    again = make_random_model(tmp_path / "b", sizes=TINY, seed=1)
    other = make_random_model(tmp_path / "c", sizes=TINY, seed=2)

    names = sorted(path.name for path in first.iterdir())

    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_transformers_reads_the_folder(tmp_path: Path, dtype: Dtype) -> None:
    """Model, tokenizer and template are those of a real folder."""
    folder = make_random_model(tmp_path / "m", sizes=TINY, dtype=dtype)

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )

    assert model.lm_head.weight.shape == (512, 64)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert len(tokenizer) == 512
    assert model.generation_config.eos_token_id == list(open_model(folder).spec.eos_token_ids)


@pytest.mark.parametrize("size", [259, 512, 8192])
def test_every_id_stands_for_text(tmp_path: Path, size: int) -> None:
    """The vocabulary has exactly the size asked for, and all bytes and specials survive a round trip."""
    folder = make_random_model(tmp_path / "m", sizes=ModelSizes(num_layers=1, hidden_size=64, vocab_size=size))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "<|im_start|>How many guests? größe 漢字 🙂\n\t<|im_end|>"

    ids = tokenizer.encode(text).ids

    assert tokenizer.get_vocab_size() == size
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert ids[0] == tokenizer.token_to_id("<|im_start|>")
    assert all(tokenizer.id_to_token(index) for index in range(size))


def test_vocabularies_have_bounds() -> None:
    """Fewer ids than bytes and specials cannot be."""
    with pytest.raises(ValueError, match="not within"):
        build_vocabulary(258)


def test_gguf_carries_the_tokenizer(tmp_path: Path) -> None:
    """Tokens, types, merges, end tokens and template are in the metadata."""
    folder = make_random_model(tmp_path / "m", sizes=TINY)
    path = write_gguf_of(folder, tmp_path / "m.gguf")
    expected = json.loads((folder / "tokenizer.json").read_text())

    metadata = read_metadata(path)

    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert tokens[-3:] == SPECIALS
    assert {token: index for index, token in enumerate(tokens[:-3])} == expected["model"]["vocab"]
    assert metadata["tokenizer.ggml.merges"] == tuple(" ".join(merge) for merge in expected["model"]["merges"])
    assert metadata["tokenizer.ggml.eos_token_id"] == 511
    assert "<|im_start|>" in str(metadata["tokenizer.chat_template"])


def test_the_large_model_has_over_a_hundred_million_weights() -> None:
    """Counted without building it."""
    layer = H_MODEL.hidden_size * (2 * H_MODEL.hidden_size + H_MODEL.hidden_size + 3 * H_MODEL.ffn_size)

    assert layer * H_MODEL.num_layers + 2 * H_MODEL.vocab_size * H_MODEL.hidden_size > 100_000_000
