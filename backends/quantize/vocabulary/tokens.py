"""The tokens of a tokenizer.json by id, with the types that GGUF files give them."""

from __future__ import annotations

import re
from enum import IntEnum

import msgspec

from backends.errors import ModelError
from backends.quantize.vocabulary.document import AddedToken, TokenizerDocument
from backends.weights.gguf.writer import EncodedValue, Kind, array

_BARRED = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class TokenType(IntEnum):
    """`enum llama_token_type` of llama.cpp."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class TokenList(msgspec.Struct, frozen=True):
    """Texts and types by id."""

    texts: tuple[str, ...]
    types: tuple[TokenType, ...]

    @property
    def metadata(self) -> dict[str, EncodedValue]:
        return {
            "tokenizer.ggml.tokens": array(Kind.STRING, self.texts),
            "tokenizer.ggml.token_type": array(Kind.INT32, self.types),
        }


def token_list(document: TokenizerDocument, *, vocab_size: int) -> TokenList:
    """As many tokens as the embedding has rows; ids without a token get the name that llama.cpp's converter gives.

    Raises `ModelError` for ids beyond the embedding, and for two tokens with one id.
    """
    texts: dict[int, str] = {}
    ids = document.model.vocab | {token.content: token.id for token in document.added}
    for text, token_id in ids.items():
        if not 0 <= token_id < vocab_size:
            raise ModelError(f"{document.where}: token {text!r} has id {token_id}; the model has {vocab_size} rows")
        if token_id in texts:
            raise ModelError(f"{document.where}: tokens {texts[token_id]!r} and {text!r} share the id {token_id}")
        texts[token_id] = text
    types = {token_id: _ordinary_type(document, text) for token_id, text in texts.items()}
    types |= {token.id: _added_type(document, token) for token in document.added}
    pads = [token_id for token_id in range(vocab_size) if token_id not in texts]
    texts |= {token_id: f"[PAD{token_id}]" for token_id in pads}
    types |= dict.fromkeys(pads, TokenType.UNUSED)
    every_id = range(vocab_size)
    return TokenList(tuple(texts[token_id] for token_id in every_id), tuple(types[token_id] for token_id in every_id))


def _ordinary_type(document: TokenizerDocument, text: str) -> TokenType:
    if text == document.model.unk_token:
        return TokenType.UNKNOWN
    is_byte = document.model.byte_fallback and _BYTE.fullmatch(text) is not None
    return TokenType.BYTE if is_byte else TokenType.NORMAL


def _added_type(document: TokenizerDocument, token: AddedToken) -> TokenType:
    """Turn markers are control tokens whatever the file calls them, as in llama.cpp's converter."""
    if token.content == document.model.unk_token:
        return TokenType.UNKNOWN
    is_control = token.special or _BARRED.fullmatch(token.content) is not None
    return TokenType.CONTROL if is_control else TokenType.USER_DEFINED
