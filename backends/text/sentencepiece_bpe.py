"""SentencePiece BPE (`tokenizer.ggml.model` = `llama`) from a GGUF vocabulary.

SentencePiece joins the adjacent pair whose union has the highest score, from single characters upwards. Every split of
a piece into two pieces is therefore a merge, ranked by the score of the piece.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import tokenizers
from tokenizers import models, normalizers

from backends.errors import ModelError
from backends.text import token_bytes
from backends.text.byte_bpe import add_tokens, prefix_ids
from backends.text.gguf_vocabulary import GgufVocabulary, TokenType
from backends.text.token_bytes import SPACE_MARK
from backends.text.tokenizer import Tokenizer

_NEVER_MERGED = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE)
_DEFAULT_BOS, _DEFAULT_EOS, _DEFAULT_UNKNOWN = 1, 2, 0  # llama.cpp, src/llama-vocab.cpp, for the model `llama`


def build_sentencepiece_bpe(vocabulary: GgufVocabulary) -> Tokenizer:
    """Raises `ModelError` if the scores or the unknown token are missing."""
    vocabulary = _with_defaults(vocabulary)
    if not vocabulary.scores:
        raise ModelError(f"{vocabulary.where}: tokenizer.ggml.scores is missing; convert the model again")
    if vocabulary.unknown_id is None:
        raise ModelError(f"{vocabulary.where}: tokenizer.ggml.unknown_token_id is missing; convert the model again")
    ids = {token: token_id for token_id, token in enumerate(vocabulary.tokens)}
    byte_fallback = all(f"<0x{byte:02X}>" in ids for byte in range(256))
    engine = tokenizers.Tokenizer(
        models.BPE(
            vocab=ids,
            merges=_merges(vocabulary),
            unk_token=vocabulary.tokens[vocabulary.unknown_id],
            fuse_unk=True,
            byte_fallback=byte_fallback,
        )
    )
    engine.normalizer = _normalizer(add_space_prefix=vocabulary.add_space_prefix)
    add_tokens(engine, vocabulary)
    return Tokenizer(
        engine,
        token_bytes=tuple(map(_bytes_of, vocabulary.tokens, vocabulary.types)),
        bos_id=vocabulary.bos_id,
        eos_id=vocabulary.eos_id,
        prefix_ids=prefix_ids(vocabulary, add_bos=vocabulary.add_bos is not False),
        unknown_id=vocabulary.unknown_id,
        covers_own_bytes=byte_fallback,
    )


def _with_defaults(vocabulary: GgufVocabulary) -> GgufVocabulary:
    def default(token_id: int | None, fallback: int, kind: TokenType) -> int | None:
        if token_id is not None or len(vocabulary.tokens) <= fallback or vocabulary.types[fallback] != kind:
            return token_id
        return fallback

    return msgspec.structs.replace(
        vocabulary,
        bos_id=default(vocabulary.bos_id, _DEFAULT_BOS, TokenType.CONTROL),
        eos_id=default(vocabulary.eos_id, _DEFAULT_EOS, TokenType.CONTROL),
        unknown_id=default(vocabulary.unknown_id, _DEFAULT_UNKNOWN, TokenType.UNKNOWN),
    )


def _merges(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    score = {
        token: score
        for token, kind, score in zip(vocabulary.tokens, vocabulary.types, vocabulary.scores, strict=True)
        if kind not in _NEVER_MERGED
    }
    merges = [(-score[piece], pair) for piece in score for pair in _splits(piece, score)]
    merges.sort(key=lambda merge: merge[0])  # stable: pieces of one score keep the order of their ids
    return [pair for _, pair in merges]


def _splits(piece: str, score: dict[str, float]) -> Iterator[tuple[str, str]]:
    for cut in range(1, len(piece)):
        if piece[:cut] in score and piece[cut:] in score:
            yield piece[:cut], piece[cut:]


def _normalizer(*, add_space_prefix: bool) -> normalizers.Normalizer:
    spaces = normalizers.Replace(" ", SPACE_MARK)
    return normalizers.Sequence([normalizers.Prepend(SPACE_MARK), spaces]) if add_space_prefix else spaces


def _bytes_of(token: str, kind: TokenType) -> bytes:
    if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
        return token_bytes.literal(token)
    return token_bytes.sentencepiece(token) if kind == TokenType.BYTE else token_bytes.spaced(token)
