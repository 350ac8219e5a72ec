"""The vocabulary in a GGUF file's metadata, checked before anything is built from it."""

from __future__ import annotations

import math
from collections import Counter
from enum import IntEnum, StrEnum
from typing import TypeVar

import msgspec

from backends.errors import ModelError
from backends.text.spelling import looks_like_control
from backends.weights.gguf import Metadata

_MAX_TOKEN_CHARACTERS = 1024  # several times the longest known token; bounds the splits of a piece

T = TypeVar("T")


class TokenizerKey(StrEnum):
    """The metadata keys of tokenizer and chat template."""

    MODEL = "tokenizer.ggml.model"
    PRE = "tokenizer.ggml.pre"
    TOKENS = "tokenizer.ggml.tokens"
    TYPES = "tokenizer.ggml.token_type"
    SCORES = "tokenizer.ggml.scores"
    MERGES = "tokenizer.ggml.merges"
    BOS = "tokenizer.ggml.bos_token_id"
    EOS = "tokenizer.ggml.eos_token_id"
    EOT = "tokenizer.ggml.eot_token_id"
    EOM = "tokenizer.ggml.eom_token_id"
    UNKNOWN = "tokenizer.ggml.unknown_token_id"
    PADDING = "tokenizer.ggml.padding_token_id"
    ADD_BOS = "tokenizer.ggml.add_bos_token"
    ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
    CHAT_TEMPLATE = "tokenizer.chat_template"
    CHAT_TEMPLATES = "tokenizer.chat_templates"
    """Names of further templates, each under `tokenizer.chat_template.<name>`."""


class TokenType(IntEnum):
    """`enum llama_token_type` of llama.cpp."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class GgufVocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens`, `types` and `scores` are indexed by token id; `scores` may be empty."""

    where: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    scores: tuple[float, ...]
    merges: tuple[tuple[str, str], ...]
    pre: str
    bos_id: int | None
    eos_id: int | None
    unknown_id: int | None
    add_bos: bool | None
    add_space_prefix: bool


def read_vocabulary(metadata: Metadata, *, where: str) -> GgufVocabulary:
    """Raises `ModelError` naming the key at fault."""
    tokens = _unique(_strings(metadata, TokenizerKey.TOKENS, where), where)
    bos_id, eos_id = (_token_id(metadata, key, len(tokens), where) for key in (TokenizerKey.BOS, TokenizerKey.EOS))
    eot_id = _token_id(metadata, TokenizerKey.EOT, len(tokens), where)
    types = _types(metadata, tokens, where)
    control = {bos_id, eos_id, eot_id}
    return GgufVocabulary(
        where=where,
        tokens=tokens,
        types=tuple(
            TokenType.CONTROL if token_id in control or _is_disguised(kind, token) else kind
            for token_id, (kind, token) in enumerate(zip(types, tokens, strict=True))
        ),
        scores=_scores(metadata, len(tokens), where),
        merges=_merges(metadata, where),
        pre=_single(metadata, TokenizerKey.PRE, str, where) or "default",
        bos_id=bos_id,
        eos_id=eos_id,
        unknown_id=_token_id(metadata, TokenizerKey.UNKNOWN, len(tokens), where),
        add_bos=_single(metadata, TokenizerKey.ADD_BOS, bool, where),
        add_space_prefix=_single(metadata, TokenizerKey.ADD_SPACE_PREFIX, bool, where) is not False,
    )


def _is_disguised(kind: TokenType, token: str) -> bool:
    """Some converters store control tokens as user-defined ones."""
    return kind == TokenType.USER_DEFINED and looks_like_control(token)


def _single(metadata: Metadata, key: TokenizerKey, kind: type[T], where: str) -> T | None:
    value = metadata.get(key)
    if value is None:
        return None
    if type(value) is not kind:
        raise ModelError(f"{where}: {key} is {value!r}; expected {kind.__name__}")
    return value  # ty: ignore[invalid-explicit-return]  # it does not follow `type(value) is kind`


def _array(metadata: Metadata, key: TokenizerKey, kinds: tuple[type, ...], where: str) -> tuple[object, ...]:
    value = metadata.get(key, ())
    if not isinstance(value, tuple) or not all(type(item) in kinds for item in value):
        raise ModelError(f"{where}: {key} is not an array of {kinds[0].__name__}")
    return value


def _strings(metadata: Metadata, key: TokenizerKey, where: str) -> tuple[str, ...]:
    return tuple(item for item in _array(metadata, key, (str,), where) if isinstance(item, str))


def _unique(tokens: tuple[str, ...], where: str) -> tuple[str, ...]:
    if not tokens:
        raise ModelError(f"{where}: {TokenizerKey.TOKENS} is missing or empty; convert the model with its tokenizer")
    named = tuple(token or f"[EMPTY_{token_id}]" for token_id, token in enumerate(tokens))  # as llama.cpp does
    if max(map(len, named)) > _MAX_TOKEN_CHARACTERS:
        raise ModelError(
            f"{where}: {TokenizerKey.TOKENS} holds a token of more than {_MAX_TOKEN_CHARACTERS} characters"
        )
    if len(set(named)) < len(named):
        twice, _ = Counter(named).most_common(1)[0]
        raise ModelError(f"{where}: {TokenizerKey.TOKENS} holds {twice!r} twice")
    return named


def _types(metadata: Metadata, tokens: tuple[str, ...], where: str) -> tuple[TokenType, ...]:
    raw = _array(metadata, TokenizerKey.TYPES, (int,), where)
    if not raw:
        return (TokenType.NORMAL,) * len(tokens)
    if len(raw) != len(tokens):
        raise ModelError(f"{where}: {TokenizerKey.TYPES} has {len(raw)} items for {len(tokens)} tokens")
    known = {kind.value for kind in TokenType}
    return tuple(TokenType(kind) if kind in known else TokenType.UNDEFINED for kind in raw)


def _scores(metadata: Metadata, num_tokens: int, where: str) -> tuple[float, ...]:
    raw = _array(metadata, TokenizerKey.SCORES, (float,), where)
    scores = tuple(item for item in raw if isinstance(item, float))
    if scores and len(scores) != num_tokens:
        raise ModelError(f"{where}: {TokenizerKey.SCORES} has {len(scores)} items for {num_tokens} tokens")
    if any(map(math.isnan, scores)):
        raise ModelError(f"{where}: {TokenizerKey.SCORES} holds a value that is not a number")
    return scores


def _merges(metadata: Metadata, where: str) -> tuple[tuple[str, str], ...]:
    merges = []
    for merge in _strings(metadata, TokenizerKey.MERGES, where):
        cut = merge.find(" ", 1)
        if cut < 0:
            raise ModelError(
                f"{where}: {TokenizerKey.MERGES} holds {merge!r}; expected two tokens with a space between"
            )
        merges.append((merge[:cut], merge[cut + 1 :]))
    return tuple(merges)


def _token_id(metadata: Metadata, key: TokenizerKey, num_tokens: int, where: str) -> int | None:
    value = _single(metadata, key, int, where)
    if value is not None and not 0 <= value < num_tokens:
        raise ModelError(f"{where}: {key} is {value}, but there are {num_tokens} tokens")
    return value
