"""Tokenizers from the vocabulary of a GGUF file: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`)."""

from __future__ import annotations

from collections.abc import Container, Iterator

import msgspec
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from backends.errors import ModelError, UnsupportedModel
from backends.text import spelling
from backends.text.gguf_vocabulary import GgufVocabulary, TokenizerKey, TokenType, read_vocabulary
from backends.text.pretokenizers import NamedPreTokenizer, pre_tokenizer_by_name
from backends.text.tokenizer import Tokenizer, vocabulary_faults
from backends.weights.gguf import Metadata

NEVER_MERGED = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE)
"""Types of SentencePiece tokens that no merge makes or uses."""

_ADDED = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
_DEFAULT_BOS, _DEFAULT_EOS, _DEFAULT_UNKNOWN = 1, 2, 0  # llama.cpp, src/llama-vocab.cpp, for the model `llama`


def build_from_metadata(metadata: Metadata, *, where: str) -> Tokenizer:
    """The tokenizer in a GGUF file's metadata. Raises `UnsupportedModel` for another kind than `gpt2` or `llama`."""
    kind = metadata.get(TokenizerKey.MODEL)
    if kind is None:
        raise ModelError(f"{where}: {TokenizerKey.MODEL} is missing; convert the model with its tokenizer")
    build = _BUILDERS.get(str(kind))
    if build is None:
        raise UnsupportedModel(f"{where}: {TokenizerKey.MODEL} is {kind!r}; supported are {', '.join(_BUILDERS)}")
    vocabulary = read_vocabulary(metadata, where=where)
    with vocabulary_faults(f"{where}: tokenizer.ggml"):
        return build(vocabulary)


def _build_byte_bpe(vocabulary: GgufVocabulary) -> Tokenizer:
    """Raises `ModelError` if merges are missing or name unknown tokens, `UnsupportedModel` for unknown patterns."""
    named = pre_tokenizer_by_name(vocabulary.pre, where=vocabulary.where)
    if not vocabulary.merges:
        raise ModelError(f"{vocabulary.where}: {TokenizerKey.MERGES} is missing; convert the model again")
    ids = {token: token_id for token_id, token in enumerate(vocabulary.tokens)}
    engine = tokenizers.Tokenizer(
        models.BPE(vocab=ids, merges=list(vocabulary.merges), ignore_merges=named.ignore_merges)
    )
    engine.pre_tokenizer = _build_pre_tokenizer(named)
    _add_tokens(engine, vocabulary)
    add_bos = named.adds_bos if vocabulary.add_bos is None else vocabulary.add_bos
    return Tokenizer(
        engine,
        token_bytes=tuple(
            spelling.literal(token) if kind in _ADDED else spelling.byte_level(token)
            for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        ),
        bos_id=vocabulary.bos_id,
        eos_id=vocabulary.eos_id,
        prefix_ids=_prefix_ids(vocabulary, add_bos=add_bos),
        covers_own_bytes=spelling.BYTE_BY_CHARACTER.keys() <= ids.keys(),
    )


def _build_pre_tokenizer(named: NamedPreTokenizer) -> pre_tokenizers.PreTokenizer:
    """Split by the patterns, then spell bytes as printable characters."""
    by_pattern = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in named.patterns]
    return pre_tokenizers.Sequence([*by_pattern, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _build_sentencepiece_bpe(vocabulary: GgufVocabulary) -> Tokenizer:
    """Raises `ModelError` if the scores or the unknown token are missing.

    SentencePiece joins the adjacent pair whose union has the highest score, from single characters upwards. Every split
    of a piece into two pieces is therefore a merge, ranked by the score of the piece.
    """
    vocabulary = _with_defaults(vocabulary)
    if not vocabulary.scores:
        raise ModelError(f"{vocabulary.where}: {TokenizerKey.SCORES} is missing; convert the model again")
    if vocabulary.unknown_id is None:
        raise ModelError(f"{vocabulary.where}: {TokenizerKey.UNKNOWN} is missing; convert the model again")
    ids = {token: token_id for token_id, token in enumerate(vocabulary.tokens)}
    byte_fallback = spelling.BYTE_BY_TOKEN.keys() <= ids.keys()
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
    _add_tokens(engine, vocabulary)
    return Tokenizer(
        engine,
        token_bytes=tuple(map(_bytes_of, vocabulary.tokens, vocabulary.types)),
        bos_id=vocabulary.bos_id,
        eos_id=vocabulary.eos_id,
        prefix_ids=_prefix_ids(vocabulary, add_bos=vocabulary.add_bos is not False),
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
        if kind not in NEVER_MERGED
    }
    merges = [(-score[piece], pair) for piece in score for pair in splits(piece, score)]
    merges.sort(key=lambda merge: merge[0])  # stable: pieces of one score keep the order of their ids
    return [pair for _, pair in merges]


def splits(piece: str, pieces: Container[str]) -> Iterator[tuple[str, str]]:
    """All ways to make a piece of two of `pieces`."""
    for cut in range(1, len(piece)):
        if piece[:cut] in pieces and piece[cut:] in pieces:
            yield piece[:cut], piece[cut:]


def _normalizer(*, add_space_prefix: bool) -> normalizers.Normalizer:
    spaces = normalizers.Replace(" ", spelling.SPACE_MARK)
    return normalizers.Sequence([normalizers.Prepend(spelling.SPACE_MARK), spaces]) if add_space_prefix else spaces


def _bytes_of(token: str, kind: TokenType) -> bytes:
    if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
        return spelling.literal(token)
    return spelling.sentencepiece(token) if kind == TokenType.BYTE else spelling.spaced(token)


def _add_tokens(engine: tokenizers.Tokenizer, vocabulary: GgufVocabulary) -> None:
    """Add the tokens that are recognised in text before anything else."""
    engine.add_tokens(
        [
            tokenizers.AddedToken(token, normalized=False, special=kind != TokenType.USER_DEFINED)
            for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
            if kind in _ADDED
        ]
    )


def _prefix_ids(vocabulary: GgufVocabulary, *, add_bos: bool) -> tuple[int, ...]:
    """The ids that begin every prompt. Raises `ModelError` if the file asks for a BOS that it does not name."""
    if not add_bos:
        return ()
    if vocabulary.bos_id is None:
        raise ModelError(f"{vocabulary.where}: prompts begin with BOS, but {TokenizerKey.BOS} is missing")
    return (vocabulary.bos_id,)


_BUILDERS = {"gpt2": _build_byte_bpe, "llama": _build_sentencepiece_bpe}
