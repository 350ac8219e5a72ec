"""Byte-level BPE (`tokenizer.ggml.model` = `gpt2`) from a GGUF vocabulary."""

from __future__ import annotations

import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from backends.errors import ModelError
from backends.text import token_bytes
from backends.text.gguf_vocabulary import GgufVocabulary, TokenType
from backends.text.tokenizer import Tokenizer
from backends.weights.gguf.pretokenizers import Cutting, cutting_by_name

_ADDED = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)


def build_byte_bpe(vocabulary: GgufVocabulary) -> Tokenizer:
    """Raises `ModelError` if merges are missing or name unknown tokens, `UnsupportedModel` for an unknown cutting."""
    cutting = cutting_by_name(vocabulary.pre, where=vocabulary.where)
    if not vocabulary.merges:
        raise ModelError(f"{vocabulary.where}: tokenizer.ggml.merges is missing; convert the model again")
    ids = {token: token_id for token_id, token in enumerate(vocabulary.tokens)}
    engine = tokenizers.Tokenizer(
        models.BPE(vocab=ids, merges=list(vocabulary.merges), ignore_merges=cutting.ignore_merges)
    )
    engine.pre_tokenizer = build_pre_tokenizer(cutting)
    add_tokens(engine, vocabulary)
    add_bos = cutting.adds_bos if vocabulary.add_bos is None else vocabulary.add_bos
    return Tokenizer(
        engine,
        token_bytes=tuple(
            token_bytes.literal(token) if kind in _ADDED else token_bytes.byte_level(token)
            for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        ),
        bos_id=vocabulary.bos_id,
        eos_id=vocabulary.eos_id,
        prefix_ids=prefix_ids(vocabulary, add_bos=add_bos),
        covers_own_bytes=token_bytes.BYTE_BY_CHARACTER.keys() <= ids.keys(),
    )


def add_tokens(engine: tokenizers.Tokenizer, vocabulary: GgufVocabulary) -> None:
    """Tokens that are recognised in text before anything else."""
    engine.add_tokens(
        [
            tokenizers.AddedToken(token, normalized=False, special=kind != TokenType.USER_DEFINED)
            for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
            if kind in _ADDED
        ]
    )


def prefix_ids(vocabulary: GgufVocabulary, *, add_bos: bool) -> tuple[int, ...]:
    """What prompts begin with. Raises `ModelError` if the file asks for a BOS that it does not name."""
    if not add_bos:
        return ()
    if vocabulary.bos_id is None:
        raise ModelError(f"{vocabulary.where}: prompts begin with BOS, but tokenizer.ggml.bos_token_id is missing")
    return (vocabulary.bos_id,)


def build_pre_tokenizer(cutting: Cutting) -> pre_tokenizers.PreTokenizer:
    """Cut, then spell bytes as printable characters."""
    cuts = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in cutting.patterns]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
