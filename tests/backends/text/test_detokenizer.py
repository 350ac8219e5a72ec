"""Joined deltas are the whole text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine

from backends.text.gguf_tokenizer import build_from_metadata
from backends.text.tokenizer import Detokenizer
from tests.backends.text.vocabularies import TEXTS, byte_level_engine, byte_level_metadata

TOKENIZER = build_from_metadata(byte_level_metadata(), where="test")
CHUNKS = st.lists(st.lists(st.integers(0, TOKENIZER.vocab_size + 2), max_size=6), max_size=20)


@given(CHUNKS)
def test_deltas_joined_are_the_whole(chunks: list[list[int]]) -> None:
    """Deltas joined are the whole text for any tokens, however cut into chunks."""
    detokenizer = Detokenizer(TOKENIZER, show_specials=True)

    deltas = [detokenizer.push(chunk) for chunk in chunks] + [detokenizer.flush()]

    whole = b"".join(TOKENIZER.token_bytes(token_id) for chunk in chunks for token_id in chunk)
    assert "".join(deltas) == whole.decode("utf-8", "replace")


@given(st.text(max_size=50))
def test_text_survives_one_token_at_a_time(text: str) -> None:
    """Encoded text comes back, without a replacement character on the way."""
    detokenizer = Detokenizer(TOKENIZER)

    deltas = [detokenizer.push([token_id]) for token_id in TOKENIZER.encode(text)]

    assert "".join(deltas) == text
    assert detokenizer.flush() == ""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return byte_level_engine()


@pytest.mark.parametrize("text", TEXTS)
def test_as_the_library(engine: Engine, text: str) -> None:
    """Equal to the library's `decode`, specials hidden."""
    ids = engine.encode(f"<|im_start|>{text}<|im_end|>").ids
    detokenizer = Detokenizer(TOKENIZER)

    assert detokenizer.push(ids) + detokenizer.flush() == engine.decode(ids) == text


def test_half_a_character_is_held_back() -> None:
    """Text appears when its character is complete, and an incomplete one is replaced at the end."""
    first, *rest = TOKENIZER.encode("\u0416")
    detokenizer = Detokenizer(TOKENIZER)

    assert detokenizer.push([first]) == ""
    assert detokenizer.push(rest) == "\u0416"
    assert detokenizer.push([first]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_specials_are_hidden_unless_asked_for(tmp_path: Path) -> None:
    """Control tokens are no text for users."""
    ids = TOKENIZER.encode("a<|im_end|>b")

    assert Detokenizer(TOKENIZER).push(ids) == "ab"
    assert Detokenizer(TOKENIZER, show_specials=True).push(ids) == "a<|im_end|>b"
