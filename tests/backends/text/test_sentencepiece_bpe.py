"""SentencePiece vocabularies from GGUF metadata, against the sentencepiece library."""

from __future__ import annotations

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ModelError
from backends.text.gguf_tokenizer import build_from_metadata
from backends.text.tokenizer import Tokenizer
from tests.backends.text.vocabularies import TEXTS, sentencepiece_metadata, train_sentencepiece

ALPHABET = "aeinorst hgl.,\n\t_-'ßé漢🙂\u0301 "


@pytest.fixture(scope="module")
def processor() -> sentencepiece.SentencePieceProcessor:
    return train_sentencepiece(TEXTS[2:])


@pytest.fixture(scope="module")
def tokenizer(processor: sentencepiece.SentencePieceProcessor) -> Tokenizer:
    return build_from_metadata(sentencepiece_metadata(processor, add_bos_token=False), where="test")


@pytest.mark.parametrize("text", TEXTS)
def test_ids_as_sentencepiece(processor: sentencepiece.SentencePieceProcessor, tokenizer: Tokenizer, text: str) -> None:
    """Ids equal sentencepiece's, and their bytes are the text behind one added space."""
    ids = tokenizer.encode(text)

    assert ids == processor.encode(text)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == (f" {text}" if text else "")


@given(text=st.text(ALPHABET, max_size=60))
def test_any_text_as_sentencepiece(
    processor: sentencepiece.SentencePieceProcessor, tokenizer: Tokenizer, text: str
) -> None:
    """The merges derived from scores give sentencepiece's ids for any text."""
    assert tokenizer.encode(text) == processor.encode(text)


def test_without_the_added_space() -> None:
    """`add_space_prefix = false` leaves the first word bare."""
    processor = train_sentencepiece(TEXTS[2:], add_dummy_prefix=False)
    metadata = sentencepiece_metadata(processor, add_bos_token=False, add_space_prefix=False)

    ids = build_from_metadata(metadata, where="test").encode("guests and  guests")

    assert ids == processor.encode("guests and  guests")


def test_user_defined_token_is_found_first(
    processor: sentencepiece.SentencePieceProcessor, tokenizer: Tokenizer
) -> None:
    """A user-defined piece is one token, and no special one."""
    piece = processor.piece_to_id("<think>")

    ids = tokenizer.encode("a<think>b")

    assert piece in ids
    assert not tokenizer.is_special(piece)


def test_bos_is_added_unless_the_file_says_no(processor: sentencepiece.SentencePieceProcessor) -> None:
    """Models of this kind begin prompts with BOS."""
    tokenizer = build_from_metadata(sentencepiece_metadata(processor), where="test")

    assert tokenizer.encode("guests") == [processor.bos_id(), *processor.encode("guests")]


def test_control_pieces_are_special(processor: sentencepiece.SentencePieceProcessor, tokenizer: Tokenizer) -> None:
    """`<s>` in raw text is the control token; its text alone never merges into it."""
    special = tokenizer.encode("</s>")
    chat = tokenizer.encode_chat("<\U000f0000/s>", mark="\U000f0000")

    assert special == [processor.eos_id()]
    assert not any(map(tokenizer.is_special, chat))
    assert b"".join(map(tokenizer.token_bytes, chat)) == b" </s>"


def test_byte_tokens_are_bytes(processor: sentencepiece.SentencePieceProcessor, tokenizer: Tokenizer) -> None:
    """A byte token is its byte, and typing its name does not make it."""
    newline = processor.piece_to_id("<0x0A>")

    assert tokenizer.token_bytes(newline) == b"\n"
    assert newline not in tokenizer.encode("<0x0A>")


@pytest.mark.parametrize("key", ["tokens", "scores"])
def test_missing_key_is_named(processor: sentencepiece.SentencePieceProcessor, key: str) -> None:
    """A vocabulary without its parts is refused by name."""
    with pytest.raises(ModelError, match=rf"tokenizer\.ggml\.{key} is missing"):
        build_from_metadata(sentencepiece_metadata(processor, **{key: None}), where="test")
