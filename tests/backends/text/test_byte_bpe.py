"""Byte-level BPE vocabularies from GGUF metadata, against tokenizers that the library builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from backends.errors import ModelError, UnsupportedModel
from backends.text.gguf_tokenizer import build_from_metadata
from backends.text.load import load_tokenizer
from backends.text.tokenizer import Tokenizer
from tests.backends.text.vocabularies import TEXTS, as_metadata, byte_level_engine, byte_level_metadata

# From the tokenizer.json of each model.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level])


REFERENCES = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama-bpe": split(LLAMA3),
    "qwen2": split(QWEN2),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pre", REFERENCES)
def test_ids_as_the_library(pre: str, text: str) -> None:
    """Each named pre-tokenizer gives the ids of the models' own pre-tokenizer."""
    engine = byte_level_engine()
    engine.pre_tokenizer = REFERENCES[pre]
    tokenizer = build_from_metadata(byte_level_metadata(pre, add_bos_token=False), where="test")

    ids = tokenizer.encode(text)

    assert ids == engine.encode(text).ids
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


PRE_TOKENIZERS = (
    "default", "gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35", "falcon", "deepseek-coder", "deepseek-v3",
    "tekken", "gpt-4o",
)  # fmt: skip
TOKENIZERS = {
    pre: build_from_metadata(byte_level_metadata(pre, add_bos_token=False), where="test") for pre in PRE_TOKENIZERS
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())
@given(text=st.text(max_size=40))
def test_no_pre_tokenizer_loses_text(tokenizer: Tokenizer, text: str) -> None:
    """The bytes of the ids are the text with each pre-tokenizer."""
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))).decode() == text


def test_read_from_a_file(tmp_path: Path) -> None:
    """A file that the gguf package wrote gives the same tokenizer as its metadata."""
    metadata: dict[str, Any] = dict(byte_level_metadata("qwen2"))  # Any: what is which kind is known here
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    for key, add in (("tokens", writer.add_token_list), ("merges", writer.add_token_merges)):
        add(list(metadata[f"tokenizer.ggml.{key}"]))
    writer.add_token_types(list(metadata["tokenizer.ggml.token_type"]))
    writer.add_eos_token_id(metadata["tokenizer.ggml.eos_token_id"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    tokenizer = load_tokenizer(tmp_path / "model.gguf")

    assert tokenizer.encode(TEXTS[2]) == build_from_metadata(metadata, where="test").encode(TEXTS[2])
    assert tokenizer.token_bytes(tokenizer.eos_id or -1) == b"<|im_end|>"
    assert tokenizer.bos_id is None


def test_unknown_pre_tokenizer_names_the_supported() -> None:
    """A wrong pre-tokenizer would spoil answers unnoticed, so an unknown one is refused."""
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.ggml\.pre is 'quux'; supported are default, gpt-2"):
        build_from_metadata(byte_level_metadata("quux"), where="test")


def test_unknown_kind_names_the_supported() -> None:
    """An unknown kind of tokenizer is refused with the supported ones."""
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.ggml\.model is 'bert'; supported are gpt2, llama"):
        build_from_metadata(as_metadata({"model": "bert"}), where="test")


def test_llama3_begins_with_bos() -> None:
    """Llama 3 files need not say that prompts begin with BOS; others must."""
    assert len(build_from_metadata(byte_level_metadata("llama-bpe"), where="test").encode("")) == 1
    assert build_from_metadata(byte_level_metadata("qwen2"), where="test").encode("") == []


def test_end_token_is_always_special() -> None:
    """The token that ends a turn is special, whatever its stored type."""
    tokens = byte_level_metadata()["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    types = (1,) * len(tokens)

    tokenizer = build_from_metadata(byte_level_metadata(token_type=types), where="test")

    assert "<|im_end|>" in tokenizer.specials


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": ()}, "tokens is missing or empty"),
        ({"tokens": ("a", "b", "a")}, "holds 'a' twice"),
        ({"tokens": (1, 2)}, "tokens is not an array of str"),
        ({"token_type": (1,)}, "token_type has 1 items"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ("ab",)}, "merges holds 'ab'"),
        ({"merges": ("a quux",)}, "quux"),
        ({"eos_token_id": 99999}, "eos_token_id is 99999"),
        ({"pre": 3}, "pre is 3; expected str"),
        ({"bos_token_id": None, "add_bos_token": True}, "bos_token_id is missing"),
        ({"tokens": ("a" * 5000,)}, "more than 1024 characters"),
        ({"model": None}, "model is missing"),
    ],
)
def test_damaged_vocabulary_is_named(changes: dict[str, Any], message: str) -> None:
    """Each contradiction in the metadata is refused with the key at fault."""
    with pytest.raises(ModelError, match=message):
        build_from_metadata(byte_level_metadata(**changes), where="test")  # Any: wrong values are the test
